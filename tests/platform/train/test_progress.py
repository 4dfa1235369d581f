"""Progress: lines and rows agree, corpora are counted over workers and sittings, a summary halves a run."""

import pytest
import torch
from torch import Tensor

from fireedit.platform.train.progress import (
    CorpusTally,
    Progress,
    from_lines,
    summarize,
    to_lines,
)

SIZES = {"edits": 10, "answers": 4, "captions": 100}


def test_a_report_is_the_mean_since_the_last_one(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(steps=40)
    for loss in (1.0, 3.0):
        progress.add({"loss": loss, "img": loss / 2}, samples=8, waited_s=0.0)
    row = progress.report(20, learning_rate=1e-5, grad_norm=0.71)
    assert (row["loss"], row["img"], row["step"]) == (2.0, 1.0, 20)
    assert capsys.readouterr().err.startswith("step     20/40  loss 2.0000 (img 1.0000)  lr 1.0e-05  grad 0.71 ")
    progress.add({"loss": 9.0}, samples=8, waited_s=0.0)
    assert progress.report(21, 1e-5, 0.0)["loss"] == 9.0, "the mean begins anew"
    assert from_lines(to_lines(progress.rows)) == progress.rows


def test_the_time_left_is_the_clocks_where_it_ends_a_run_first(capsys: pytest.CaptureFixture[str]) -> None:
    for steps, start in ((0, "step      1  loss"), (10**9, "step      1/1000000000  loss")):
        progress = Progress(steps=steps)
        progress.add({"loss": 1.0}, samples=1, waited_s=0.0)
        progress.report(1, 0.1, 0.1, left_s=185.0)
        line = capsys.readouterr().err
        assert line.startswith(start) and line.endswith("left 3m05s\n")


def alone(values: Tensor) -> Tensor:
    """Sum over a single worker."""
    return values


def test_losses_are_means_over_each_corpus_rows() -> None:
    tally = CorpusTally(SIZES, drawn={})
    tally.add(["edits", "answers", "edits"], torch.tensor([1.0, 5.0, 3.0]))
    tally.add(["edits"], torch.tensor([5.0]))
    figures = tally.report(alone)
    assert (figures["loss/edits"], figures["loss/answers"]) == (3.0, 5.0)
    assert "loss/captions" not in figures, "no rows, no mean"


def test_losses_restart_at_each_report_while_shares_and_epochs_accumulate() -> None:
    tally = CorpusTally(SIZES, drawn={})
    tally.add(["edits"] * 3 + ["answers"], torch.full((4,), 9.0))
    tally.report(alone)
    tally.add(["answers"] * 4, torch.full((4,), 1.0))
    figures = tally.report(alone)
    assert figures["loss/answers"] == 1.0 and "loss/edits" not in figures
    assert (figures["share/edits"], figures["share/answers"], figures["share/captions"]) == (3 / 8, 5 / 8, 0.0)
    assert (figures["epochs/edits"], figures["epochs/answers"]) == (0.3, 1.25)
    assert tally.drawn == {"edits": 3, "answers": 5, "captions": 0}


def test_a_resumed_run_counts_from_its_earlier_draws() -> None:
    tally = CorpusTally(SIZES, drawn={"edits": 30, "captions": 10})
    tally.add(["answers"] * 10, torch.ones(10))
    figures = tally.report(alone)
    assert (figures["share/edits"], figures["share/captions"], figures["epochs/edits"]) == (0.6, 0.2, 3.0)


def test_workers_are_summed_and_not_averaged() -> None:
    first, second = CorpusTally(SIZES, drawn={}), CorpusTally(SIZES, drawn={})
    sums: list[Tensor] = []
    first.add(["edits"], torch.tensor([2.0]))
    second.add(["edits", "edits", "answers"], torch.tensor([5.0, 8.0, 1.0]))
    second.report(lambda values: sums.append(values) or values)
    figures = first.report(lambda values: values + sums[0])
    assert (figures["loss/edits"], figures["loss/answers"]) == (5.0, 1.0)
    assert first.drawn == {"edits": 3, "answers": 1, "captions": 0}


def test_a_report_before_the_first_batch_has_no_share_and_no_error() -> None:
    figures = CorpusTally(SIZES, drawn={}).report(alone)
    assert figures == {f"{figure}/{name}": 0.0 for name in SIZES for figure in ("share", "epochs")}


def row(step: int, **more: float) -> dict[str, float]:
    return {"step": step, "loss": float(step), "samples_per_s": 10.0, "share/a": 0.7, "epochs/a": step / 10, **more}


def test_a_summary_holds_first_and_last_losses() -> None:
    rows = [row(step, **{"loss/a": 2.0 * step}) for step in range(10, 101, 10)]
    summary = summarize(rows, {"a": 3.0}, log_every=10)
    assert (summary["step"], summary["samples_per_s"]) == (100, 10.0)
    assert (summary["first"]["loss"], summary["last"]["loss"]) == (15.0, 95.0)
    assert "loss/a" not in summary["last"]
    assert summary["mixture"] == {"a": {"weight": 1.0, "share": 0.7, "epochs": 10.0, "loss": 190.0}}


def test_a_short_run_is_halved() -> None:
    summary = summarize([row(10), row(20)], {"a": 1.0}, log_every=10)
    assert (summary["first"]["loss"], summary["last"]["loss"]) == (10.0, 20.0)
