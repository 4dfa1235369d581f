"""Admission by seconds of work, with a clock of the test's own."""

from collections import deque
from contextlib import ExitStack

import pytest

from fireedit.models.settings import PaintSettings
from fireedit.serve.admission import OTHER_STAGES_UNITS, UNITS_PER_MEGAPIXEL, Admission, Place, work_units
from fireedit.serve.errors import Refused


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def make(max_queue_s: float = 10, unit_s: float = 0.1) -> tuple[Admission, Clock]:
    return Admission(max_queue_s, unit_s, 10, clock := Clock()), clock


def test_work_counts_steps_branches_and_images() -> None:
    guided = PaintSettings(num_inference_steps=10)
    unguided = guided.but(guidance_scale=1.0, image_guidance_scale=1.0)
    assert work_units(guided, 2) == 60 + OTHER_STAGES_UNITS
    assert work_units(unguided, 1) == 10 + OTHER_STAGES_UNITS
    assert work_units(unguided, 1, 25_000_000) == 10 + OTHER_STAGES_UNITS + 25 * UNITS_PER_MEGAPIXEL


def test_idle_service_admits_any_edit() -> None:
    admission, _ = make()
    with admission.admit(10**6):
        assert admission.edits == 1
    assert admission.edits == 0


def test_queue_is_bounded_in_seconds_and_says_when_to_come_back() -> None:
    admission, _ = make()
    with ExitStack() as held:
        for _ in range(11):  # 10 s are the bound; the last one waits for just that
            held.enter_context(admission.admit(10))
        with pytest.raises(Refused, match="queue is full") as refused:
            held.enter_context(admission.admit(10))
        assert (refused.value.reason, refused.value.retry_after_s) == ("queue_full", 1)
        held.enter_context(admission.admit(5))  # half the work waits half the time
    held.enter_context(admission.admit(10))


def test_long_edit_does_not_shut_out_short_ones() -> None:
    admission, _ = make()
    with admission.admit(10**5):
        with admission.admit(10):
            pass
        with pytest.raises(Refused, match="full") as refused, admission.admit(10**5):
            pass
        assert not refused.value.shut
        admission.check_any()


def test_room_is_the_number_of_further_edits_like_the_recent_ones() -> None:
    admission, _ = make()
    assert admission.room == 11
    with ExitStack() as held:
        for left in range(10, -1, -1):
            held.enter_context(admission.admit(10))
            assert admission.room == left
        with pytest.raises(Refused, match="full") as refused:
            admission.check_any()
        assert refused.value.shut
    with ExitStack() as held:
        for _ in range(30):
            held.enter_context(admission.admit(1))
        assert admission.room > 50


def test_deadline_that_the_queue_cannot_meet_is_refused() -> None:
    admission, clock = make()
    with admission.admit(50, deadline=clock.now):  # an idle service tries
        pass
    with admission.admit(50):
        with admission.admit(50, deadline=clock.now + 6):
            pass
        with pytest.raises(Refused, match="timeout") as refused, admission.admit(50, deadline=clock.now + 2.2):
            pass
    assert refused.value.reason == "deadline"
    assert refused.value.retry_after_s == 3, "5 seconds of waiting fit into the same 2.2 seconds in 2.8 seconds"


def test_seconds_per_unit_are_learned_from_finished_edits() -> None:
    admission, clock = make(max_queue_s=100, unit_s=1.0)
    for _ in range(200):  # two edits side by side finish 100 units in a second
        with admission.admit(50) as first, admission.admit(50) as second:
            clock.now += 1
            first.finish()
            second.finish()
        clock.now += 60  # an idle minute teaches nothing
    assert admission.unit_s == pytest.approx(0.01, rel=0.1)


def test_cancelled_edits_teach_nothing() -> None:
    admission, clock = make(unit_s=0.1)
    for _ in range(100):
        with admission.admit(50) as kept, admission.admit(50):
            clock.now += 10
        assert not kept.finished
    assert admission.unit_s == 0.1
    with admission.admit(10) as place:
        clock.now += 1
        place.finish()
    assert admission.unit_s == pytest.approx(0.1)


@pytest.mark.parametrize(("edits", "expected"), [(1, 0.03), (2, 0.03), (3, 0.03), (4, 0.1), (9, 0.1)])
def test_slow_edits_in_a_short_queue_shut_nobody_out(edits: int, expected: float) -> None:
    """Few edits do not fill a batch: they take .1 s a unit here, and more of them might take no longer."""
    admission, clock = make(max_queue_s=1e6, unit_s=0.03)
    queue = deque[tuple[ExitStack, Place]]()
    for _ in range(200):
        while len(queue) < edits:
            stack = ExitStack()
            queue.append((stack, stack.enter_context(admission.admit(50))))
        clock.now += 5
        stack, place = queue.popleft()
        place.finish()
        stack.close()
    assert admission.unit_s == pytest.approx(expected, rel=0.05)


def test_a_faster_painter_is_noticed_in_a_short_queue() -> None:
    admission, clock = make(max_queue_s=1e6, unit_s=0.03)
    for _ in range(100):
        with admission.admit(50) as first, admission.admit(50) as second:
            clock.now += 1
            first.finish()
            second.finish()
    assert admission.unit_s == pytest.approx(0.01, rel=0.1)
