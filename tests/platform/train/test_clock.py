"""A run ends with its steps or its minutes, in however many sittings."""

import time

import pytest

from fireedit.platform.train.clock import Clock


def clock(steps: int | None = None, minutes: float | None = None, elapsed_s: float = 0.0) -> Clock:
    """A clock whose workers agree on ten seconds more at every tick."""
    agreed = iter(range(10, 1000, 10))
    return Clock(steps, minutes, elapsed_s, lambda own: elapsed_s + next(agreed))


def test_steps_alone_end_a_run_and_nobody_asks_for_the_time() -> None:
    of_steps = Clock(3, None, agreed=lambda own: pytest.fail("workers need not agree"))
    of_steps.tick()
    assert [of_steps.over(step) for step in range(4)] == [False, False, False, True]
    assert [of_steps.done(step) for step in (1, 2, 3)] == [0.25, 0.5, 0.75]
    assert of_steps.left_s is None


def test_minutes_end_a_run_that_has_no_steps() -> None:
    of_minutes, seen = clock(minutes=0.5), []
    while not of_minutes.over(len(seen)):
        seen.append(of_minutes.done(len(seen) + 1))
        assert of_minutes.left_s == pytest.approx(30 * (1 - seen[-1]))
        of_minutes.tick()
    assert seen == pytest.approx([0, 1 / 3, 2 / 3])


def test_the_part_that_is_further_along_counts() -> None:
    both = clock(steps=9, minutes=1)
    both.tick()
    assert both.done(1) == pytest.approx(1 / 6) and both.done(5) == 0.5
    assert both.over(9) and not both.over(8)


def test_earlier_sittings_count() -> None:
    assert clock(minutes=1, elapsed_s=60).over(5)
    going_on = clock(minutes=1, elapsed_s=45)
    going_on.tick()
    assert going_on.elapsed_s == 55 and going_on.left_s == 5


def test_time_runs_from_the_start_of_training() -> None:
    waiting = Clock(1, None, elapsed_s=5)
    waiting.tick()
    assert waiting.elapsed_s == 5
    for _ in range(2):
        waiting.start()
        time.sleep(0.01)
    waiting.tick()
    assert 5.02 <= waiting.elapsed_s < 15
