"""A run ends at its steps or its minutes, over any number of sittings."""

import time

import pytest

from fireedit.platform.train.clock import Clock


def clock(steps: int | None = None, minutes: float | None = None, elapsed_s: float = 0.0) -> Clock:
    """Make a clock that advances ten seconds at every tick."""
    seconds = iter(range(10, 1000, 10))
    return Clock(steps, minutes, elapsed_s, lambda own: elapsed_s + next(seconds))


def test_a_run_of_steps_does_not_synchronize_its_workers() -> None:
    of_steps = Clock(3, None, shared=lambda own: pytest.fail("workers synchronized"))
    of_steps.tick()
    assert [of_steps.over(step) for step in range(4)] == [False, False, False, True]
    assert [of_steps.done(step) for step in (1, 2, 3)] == [0.25, 0.5, 0.75]
    assert of_steps.left_s is None


def test_minutes_end_a_run_that_has_no_steps() -> None:
    of_minutes, shares = clock(minutes=0.5), []
    while not of_minutes.over(len(shares)):
        shares.append(of_minutes.done(len(shares) + 1))
        assert of_minutes.left_s == pytest.approx(30 * (1 - shares[-1]))
        of_minutes.tick()
    assert shares == pytest.approx([0, 1 / 3, 2 / 3])


def test_the_length_that_is_further_along_counts() -> None:
    both = clock(steps=9, minutes=1)
    both.tick()
    assert both.done(1) == pytest.approx(1 / 6) and both.done(5) == 0.5
    assert both.over(9) and not both.over(8)


def test_earlier_sittings_count() -> None:
    assert clock(minutes=1, elapsed_s=60).over(5)
    resumed = clock(minutes=1, elapsed_s=45)
    resumed.tick()
    assert resumed.elapsed_s == 55 and resumed.left_s == 5


def test_time_runs_from_the_start_of_training() -> None:
    waiting = Clock(1, None, elapsed_s=5)
    waiting.tick()
    assert waiting.elapsed_s == 5
    for _ in range(2):
        waiting.start()
        time.sleep(0.01)
    waiting.tick()
    assert 5.02 <= waiting.elapsed_s < 15
