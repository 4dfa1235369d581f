"""A run ends at its steps or its minutes, over any number of sittings."""

import time

import pytest

from fireedit.platform.train.clock import Clock


def test_a_run_of_steps_ends_with_the_last_one_whatever_the_time() -> None:
    of_steps = Clock(3, None)
    of_steps.tick(10**6)
    assert [of_steps.over(step) for step in range(4)] == [False, False, False, True]
    assert [of_steps.done(step) for step in (1, 2, 3)] == [0.25, 0.5, 0.75]
    assert of_steps.left_s is None


def test_minutes_end_a_run_that_has_no_steps() -> None:
    of_minutes, shares = Clock(None, 0.5), []
    while not of_minutes.over(len(shares)):
        shares.append(of_minutes.done(len(shares) + 1))
        assert of_minutes.left_s == pytest.approx(30 * (1 - shares[-1]))
        of_minutes.tick(10 * len(shares))
    assert shares == pytest.approx([0, 1 / 3, 2 / 3])


def test_the_length_that_is_further_along_counts() -> None:
    both = Clock(9, 1)
    both.tick(10)
    assert both.done(1) == pytest.approx(1 / 6) and both.done(5) == 0.5
    assert both.over(9) and not both.over(8)
    both.tick(90)
    assert both.over(1) and both.done(1) == 1.0, "no more than the whole run"


def test_earlier_sittings_count() -> None:
    assert Clock(None, 1, elapsed_s=60).over(5)
    resumed = Clock(None, 1, elapsed_s=45)
    resumed.tick(55)
    assert resumed.left_s == 5


def test_a_worker_reads_its_own_time_from_the_start_of_training_on() -> None:
    waiting = Clock(1, None, elapsed_s=5)
    assert waiting.now_s() == waiting.elapsed_s == 5
    for _ in range(2):
        waiting.start()
        time.sleep(0.01)
    assert 5.02 <= waiting.now_s() < 15
    assert waiting.elapsed_s == 5, "until a tick sets it, to the same on all workers"


def test_a_run_without_an_end_is_an_error() -> None:
    with pytest.raises(AssertionError, match="needs an end"):
        Clock(None, None)
