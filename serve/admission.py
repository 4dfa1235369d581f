"""Admission of edits by the seconds that they would wait, not by their number."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from fireedit.models.settings import PaintSettings
from fireedit.serve.errors import Refused

OTHER_STAGES_UNITS = 8
"""Work of an edit outside the UNet's steps: perception, understanding, VAE, image files; nano's, measured."""
UNITS_PER_MEGAPIXEL = 8
"""Work of a result by its size; nano's, measured."""
MEMORY_UNITS = 300
"""Finished work over which the seconds per unit are averaged."""
FULL_QUEUE = 4
"""Edits in the queue whose time counts in full: fewer do not fill the painter's batches, and take longer per unit."""
RECENT_SHARE = 0.1


def work_units(settings: PaintSettings, images: int, pixels: int = 0) -> int:
    """Compute the work of an edit; one unit is one step of one branch of one image in the UNet.

    Args:
        pixels: of all results together, which are brought back to the source's size and encoded.
    """
    branches = images * (3 if settings.guided else 1)
    return settings.num_inference_steps * branches + OTHER_STAGES_UNITS + round(pixels * UNITS_PER_MEGAPIXEL / 1e6)


@dataclass(eq=False)
class Place:
    """Admitted edit."""

    units: int
    finished: bool = False

    def finish(self) -> None:
        """Tell that the work was done to its end, so that its time is learned from."""
        self.finished = True


@dataclass
class Admission:
    """Queue of one gateway, bounded by the time that the next edit would wait in it.

    The painter runs short edits first, so an edit of u units waits for at most u units of each edit before it: a
    long edit does not shut out short ones. Seconds per unit are learned from finished edits, as time with edits in the
    queue per finished unit; so they follow replicas that come and go, and other gateways' edits. In a short queue, that
    time is only an upper bound.
    """

    max_queue_s: float
    unit_s: float
    """Seconds per unit of work: the first guess, then the average."""
    usual_units: float
    """Work of an edit with default settings."""
    clock: Callable[[], float] = time.time
    _places: list[Place] = field(default_factory=list)
    _busy_since: float = 0.0
    """Time since which no work was learned from."""
    _finished_units: int = 0
    """Work that was finished since then."""
    _recent_units: float = 0.0
    """Moving average of the work of edits that asked for a place."""

    def __post_init__(self) -> None:
        self._recent_units = self.usual_units

    @property
    def edits(self) -> int:
        """Number of admitted edits."""
        return len(self._places)

    def wait_s(self, units: float) -> float:
        """Estimate the seconds that an edit of this work would wait."""
        return self.unit_s * sum(min(place.units, units) for place in self._places)

    @property
    def room(self) -> int:
        """Number of edits like the recent ones that would be admitted."""
        left_s = self.max_queue_s - self.wait_s(self._recent_units)
        return max(0, math.floor(left_s / (self.unit_s * self._recent_units)) + 1)

    def check_any(self) -> None:
        """Raise Refused if an edit with default settings would not be admitted now; smaller ones are refused, too."""
        self._check(self.usual_units, math.inf, shut=True)

    def _check(self, units: float, deadline: float, shut: bool = False) -> None:
        wait_s = self.wait_s(units)
        if wait_s > self.max_queue_s:
            message = f"the queue is full: an edit would wait {wait_s:.0f} seconds"
            raise Refused("queue_full", message, retry_after_s=wait_s - self.max_queue_s, shut=shut)
        if wait_s and self.clock() + wait_s > deadline:
            message = f"an edit would wait {wait_s:.1f} seconds, longer than the request's timeout"
            raise Refused("deadline", message, retry_after_s=self.clock() + wait_s - deadline)

    @contextmanager
    def admit(self, units: int, deadline: float = math.inf) -> Iterator[Place]:
        """Hold a place in the queue; an idle service admits every edit.

        Raises:
            Refused: the edit would wait too long.
        """
        self._recent_units += RECENT_SHARE * (units - self._recent_units)
        self._check(units, deadline)
        if not self._places:
            self._busy_since, self._finished_units = self.clock(), 0
        self._places.append(place := Place(units))
        try:
            yield place
        finally:
            self._leave(place)

    def _leave(self, place: Place) -> None:
        now, queued = self.clock(), sum(each.units for each in self._places)
        is_full = self.edits >= FULL_QUEUE
        self._places.remove(place)
        spent_s = max(0.0, now - self._busy_since)
        if place.finished:
            self._finished_units += place.units
            unit_s = spent_s / self._finished_units
            if is_full or unit_s < self.unit_s:
                share = self._finished_units / (self._finished_units + MEMORY_UNITS)
                self.unit_s += share * (unit_s - self.unit_s)
                self._busy_since, self._finished_units = now, 0
        else:  # it took a share of the time and leaves no finished work: neither is learned from
            self._busy_since = now - spent_s * (1 - place.units / queued)
