"""A line for people and a row for machines say the same."""

import io

import pytest

from fireedit.platform.train.progress import Progress, duration, from_lines, to_lines, window_mean


def test_a_report_is_the_mean_since_the_last_one() -> None:
    stream = io.StringIO()
    progress = Progress(steps=40, stream=stream)
    for loss in (1.0, 3.0):
        progress.add({"loss": loss, "img": loss / 2}, samples=8, waited_s=0.0)
    row = progress.report(20, learning_rate=1e-5, grad_norm=0.71)
    assert (row["loss"], row["img"], row["step"]) == (2.0, 1.0, 20)
    line = stream.getvalue()
    assert line.startswith("step     20/40  loss 2.0000 (img 1.0000)  lr 1.0e-05  grad 0.71 ")
    progress.add({"loss": 9.0}, samples=8, waited_s=0.0)
    assert progress.report(21, 1e-5, 0.0)["loss"] == 9.0, "the mean begins anew"


def test_a_clock_says_what_is_left_where_it_ends_a_run_first() -> None:
    for steps, said in ((0, "step      1  loss"), (10**9, "step      1/1000000000  loss")):
        stream = io.StringIO()
        progress = Progress(steps=steps, stream=stream)
        progress.add({"loss": 1.0}, samples=1, waited_s=0.0)
        progress.report(1, 0.1, 0.1, left_s=185.0)
        assert stream.getvalue().startswith(said) and stream.getvalue().endswith("left 3m05s\n")


def test_means_may_be_taken_over_the_workers() -> None:
    progress = Progress(steps=1, stream=None)
    progress.add({"loss": 1.0}, samples=1, waited_s=0.0)
    assert progress.report(1, 0.1, 0.1, mean=lambda losses: {"loss": losses["loss"] / 2})["loss"] == 0.5


def test_without_a_stream_only_rows_are_kept() -> None:
    progress = Progress(steps=1, stream=None)
    progress.add({"loss": 1.0}, samples=1, waited_s=0.0)
    progress.report(1, 0.1, 0.1)
    assert from_lines(to_lines(progress.rows)) == progress.rows


def test_a_window_is_open_below_and_closed_above() -> None:
    rows = [{"step": step, "loss": float(step)} for step in (10, 20, 30, 40)]
    assert window_mean(rows, 0, 20) == {"loss": 15.0}
    assert window_mean(rows, 20, 40) == {"loss": 35.0}


@pytest.mark.parametrize(("seconds", "text"), [(8.4, "8s"), (185, "3m05s"), (4320, "1h12m")])
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text
