"""The end of a run by its steps or by its minutes, whichever comes first, and how far along it is."""

import time
from collections.abc import Callable


class Clock:
    """Counts the time that a run has trained for, in all its sittings.

    Args:
        steps, minutes: the length of the run; None where it has no end of that kind. At least one is given.
        elapsed_s: seconds of training in earlier sittings.
        agreed: turns the seconds of this worker into those of all; called at every tick of a run that has `minutes`.
    """

    def __init__(
        self,
        steps: int | None,
        minutes: float | None,
        elapsed_s: float = 0.0,
        agreed: Callable[[float], float] = lambda seconds: seconds,
    ):
        assert steps is not None or minutes is not None, "a run needs an end"
        self.steps, self.limit_s = steps, None if minutes is None else 60 * minutes
        self.elapsed_s = elapsed_s
        """Seconds of training as of the last tick, the same on all workers if the run has `minutes`."""
        self._before_s, self._agreed = elapsed_s, agreed
        self._began: float | None = None

    def start(self) -> None:
        """Begin this sitting; does nothing if it has begun."""
        if self._began is None:
            self._began = time.perf_counter()

    def tick(self) -> None:
        """Look at the time; every worker must do so at the same steps."""
        own = self._before_s + (0.0 if self._began is None else time.perf_counter() - self._began)
        self.elapsed_s = own if self.limit_s is None else self._agreed(own)

    def done(self, step: int) -> float:
        """The share of the run that is behind where `step` is made, in [0, 1]: what sets the learning rate."""
        by_steps = 0.0 if self.steps is None else step / (self.steps + 1)
        by_time = 0.0 if self.limit_s is None else self.elapsed_s / self.limit_s
        return min(max(by_steps, by_time), 1.0)

    def over(self, step: int) -> bool:
        """Whether the run ends with this step."""
        return (self.steps is not None and step >= self.steps) or (self.left_s is not None and self.left_s <= 0)

    @property
    def left_s(self) -> float | None:
        """Seconds until time is up, as of the last tick; None for a run that has no `minutes`."""
        return None if self.limit_s is None else self.limit_s - self.elapsed_s
