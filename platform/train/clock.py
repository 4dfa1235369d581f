"""Length of a run, in steps or in minutes, and the share of it that is done."""

import time


class Clock:
    """Training time of a run over all its sittings; the run ends at `steps` or `minutes`, whichever comes first.

    Args:
        steps, minutes: length of the run; one of them may be None.
        elapsed_s: seconds of training in earlier sittings.
    """

    def __init__(self, steps: int | None, minutes: float | None, elapsed_s: float = 0.0):
        assert steps is not None or minutes is not None, "a run needs an end"
        self.steps, self.limit_s = steps, None if minutes is None else 60 * minutes
        self.elapsed_s = elapsed_s
        """Seconds of training as of the last tick."""
        self._before_s = elapsed_s
        self._began: float | None = None

    def start(self) -> None:
        """Begin this sitting; repeated calls do nothing."""
        if self._began is None:
            self._began = time.perf_counter()

    def now_s(self) -> float:
        """Read the seconds of training by this worker's own clock."""
        return self._before_s + (0.0 if self._began is None else time.perf_counter() - self._began)

    def tick(self, elapsed_s: float) -> None:
        """Set the time, to the same on all workers."""
        self.elapsed_s = elapsed_s

    def done(self, step: int) -> float:
        """Share of the run in [0, 1] that sets the learning rate of `step`."""
        by_steps = 0.0 if self.steps is None else step / (self.steps + 1)
        by_time = 0.0 if self.limit_s is None else self.elapsed_s / self.limit_s
        return min(max(by_steps, by_time), 1.0)

    def over(self, step: int) -> bool:
        """True if the run ends with this step."""
        return (self.steps is not None and step >= self.steps) or (self.left_s is not None and self.left_s <= 0)

    @property
    def left_s(self) -> float | None:
        """Seconds until the run's minutes are over, as of the last tick; None for a run without `minutes`."""
        return None if self.limit_s is None else self.limit_s - self.elapsed_s
