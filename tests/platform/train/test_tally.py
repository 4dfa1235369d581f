"""What each corpus contributes is counted over all workers and over a run that was broken off."""

import pytest
import torch
from torch import Tensor

from fireedit.platform.train.tally import Tally

SIZES = {"edits": 10, "answers": 4, "captions": 100}


def alone(values: Tensor) -> Tensor:
    """The sum over one worker."""
    return values


def test_losses_are_means_over_each_corpus_rows() -> None:
    tally = Tally(SIZES, drawn={})
    tally.add(["edits", "answers", "edits"], torch.tensor([1.0, 5.0, 3.0]))
    tally.add(["edits"], torch.tensor([5.0]))
    figures = tally.report(alone)
    assert (figures["loss/edits"], figures["loss/answers"]) == (3.0, 5.0)
    assert "loss/captions" not in figures, "there is no mean of nothing"


def test_losses_begin_anew_with_each_report_while_shares_and_epochs_go_on() -> None:
    tally = Tally(SIZES, drawn={})
    tally.add(["edits"] * 3 + ["answers"], torch.full((4,), 9.0))
    tally.report(alone)
    tally.add(["answers"] * 4, torch.full((4,), 1.0))
    figures = tally.report(alone)
    assert figures["loss/answers"] == 1.0 and "loss/edits" not in figures
    assert (figures["share/edits"], figures["share/answers"], figures["share/captions"]) == (3 / 8, 5 / 8, 0.0)
    assert (figures["epochs/edits"], figures["epochs/answers"]) == (0.3, 1.25)
    assert tally.drawn == {"edits": 3, "answers": 5, "captions": 0}


def test_a_run_that_goes_on_counts_from_what_it_had_drawn() -> None:
    tally = Tally(SIZES, drawn={"edits": 30, "captions": 10})
    tally.add(["answers"] * 10, torch.ones(10))
    figures = tally.report(alone)
    assert (figures["share/edits"], figures["share/captions"], figures["epochs/edits"]) == (0.6, 0.2, 3.0)


def test_workers_are_summed_and_not_averaged() -> None:
    one, other = Tally(SIZES, drawn={}), Tally(SIZES, drawn={})
    sums: list[Tensor] = []
    one.add(["edits"], torch.tensor([2.0]))
    other.add(["edits", "edits", "answers"], torch.tensor([5.0, 8.0, 1.0]))
    other.report(lambda values: sums.append(values) or values)
    figures = one.report(lambda values: values + sums[0])
    assert (figures["loss/edits"], figures["loss/answers"]) == (5.0, 1.0)
    assert one.drawn == {"edits": 3, "answers": 1, "captions": 0}


def test_a_report_before_the_first_batch_has_no_share_and_no_error() -> None:
    figures = Tally(SIZES, drawn={}).report(alone)
    assert figures == {f"{what}/{name}": 0.0 for name in SIZES for what in ("share", "epochs")}


def test_a_corpus_that_is_not_in_the_mixture_is_an_error() -> None:
    with pytest.raises(KeyError):
        Tally(SIZES, drawn={}).add(["elsewhere"], torch.ones(1))
