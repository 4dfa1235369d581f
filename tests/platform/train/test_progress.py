"""Progress: reports are means, corpora are counted over workers and sittings, a summary halves a run."""

import time
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from fireedit.platform.train.progress import (
    CorpusTally,
    Progress,
    Row,
    duration,
    from_lines,
    summarize,
    to_lines,
)

SIZES = {"edits": 10, "answers": 4, "captions": 100}


def alone(figures: Mapping[str, Any]) -> Row:
    """Average over a single worker."""
    return {name: float(value) for name, value in figures.items()}


def test_a_report_is_the_mean_since_the_last_one() -> None:
    progress = Progress(workers=2)
    for loss in (1.0, 3.0):
        progress.add({"loss": torch.tensor(loss), "img": loss / 2}, samples=8, waited_s=0.5)
    time.sleep(0.02)
    row = progress.report(20, alone, {"lr": 1e-5})
    assert (row["loss"], row["img"], row["step"], row["lr"]) == (2.0, 1.0, 20, 1e-5)
    assert row["samples_per_s"] == pytest.approx(32 * row["data_wait_share"]), (
        "16 samples on each worker in 1 s of wait"
    )
    assert "mfu" not in row
    progress.add({"loss": 9.0}, samples=8, waited_s=0.0)
    again = progress.report(21, alone, {})
    assert again["loss"] == 9.0 and again["data_wait_share"] == 0.0, "the mean begins anew"
    assert from_lines(to_lines([row, again])) == [row, again]


def test_mfu_is_the_share_of_the_devices_peak() -> None:
    progress = Progress(workers=2, peak_flops=1e15, sample_flops=2e12)
    progress.add({"loss": 1.0}, samples=5, waited_s=0.0)
    row = progress.report(1, alone, {})
    assert row["mfu"] == pytest.approx(row["samples_per_s"] * 2e12 / 2e15)


@pytest.mark.parametrize(("seconds", "text"), [(8.4, "8s"), (185, "3m05s"), (4320, "1h12m"), (3599.6, "1h00m")])
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def total(values: Tensor) -> Tensor:
    """Sum over a single worker."""
    return values


def test_losses_are_means_over_each_corpus_rows() -> None:
    tally = CorpusTally(SIZES, drawn={})
    tally.add(["edits", "answers", "edits"], torch.tensor([1.0, 5.0, 3.0]))
    tally.add(["edits"], torch.tensor([5.0]))
    figures = tally.report(total)
    assert (figures["loss/edits"], figures["loss/answers"]) == (3.0, 5.0)
    assert "loss/captions" not in figures, "no rows, no mean"


def test_losses_restart_at_each_report_while_shares_and_epochs_accumulate() -> None:
    tally = CorpusTally(SIZES, drawn={})
    tally.add(["edits"] * 3 + ["answers"], torch.full((4,), 9.0))
    tally.report(total)
    tally.add(["answers"] * 4, torch.full((4,), 1.0))
    figures = tally.report(total)
    assert figures["loss/answers"] == 1.0 and "loss/edits" not in figures
    assert (figures["share/edits"], figures["share/answers"], figures["share/captions"]) == (3 / 8, 5 / 8, 0.0)
    assert (figures["epochs/edits"], figures["epochs/answers"]) == (0.3, 1.25)
    assert tally.drawn == {"edits": 3, "answers": 5, "captions": 0}


def test_a_resumed_run_counts_from_its_earlier_draws() -> None:
    tally = CorpusTally(SIZES, drawn={"edits": 30, "captions": 10})
    tally.add(["answers"] * 10, torch.ones(10))
    figures = tally.report(total)
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
    figures = CorpusTally(SIZES, drawn={}).report(total)
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
