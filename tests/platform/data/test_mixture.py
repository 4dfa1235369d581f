"""The mixture keeps its shares, its order and its promise never to end."""

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice

import pytest

from fireedit.platform.data.mixture import Mixture, MixtureError, Row

WEIGHTS = {"edits": 3.0, "answers": 1.0}


def corpus(name: str, rows: int) -> Callable[[int], Iterator[Row]]:
    return lambda epoch: ({"id": f"{name}/{index}", "epoch": epoch} for index in range(rows))


EPOCHS = {"edits": corpus("edits", 50), "answers": corpus("answers", 7)}


def first(mixture: Mixture, count: int) -> list[Row]:
    return list(islice(iter(mixture), count))


def test_shares_are_the_weights() -> None:
    rows = first(Mixture(WEIGHTS, EPOCHS, seed=0), 10_000)
    counts = Counter(row["id"].split("/")[0] for row in rows)
    assert counts["edits"] / 10_000 == pytest.approx(0.75, abs=0.01)


def test_every_worker_with_the_same_seed_draws_the_same_sequence() -> None:
    one, other = (first(Mixture(WEIGHTS, EPOCHS, seed=5), 300) for _ in range(2))
    assert one == other
    assert one != first(Mixture(WEIGHTS, EPOCHS, seed=6), 300)


def test_a_small_corpus_begins_again_and_never_drops_out() -> None:
    mixture = Mixture(WEIGHTS, EPOCHS, seed=0)
    rows = [row for row in first(mixture, 1000) if row["id"].startswith("answers")]
    assert [row["id"] for row in rows[:14]] == [f"answers/{index % 7}" for index in range(14)]
    assert rows[7]["epoch"] == 1 and mixture.epoch["answers"] == (len(rows) - 1) // 7
    assert mixture.drawn == {"edits": 1000 - len(rows), "answers": len(rows)}


def test_skipping_goes_on_in_the_sequence_of_corpora() -> None:
    whole = [row["id"].split("/")[0] for row in first(Mixture(WEIGHTS, EPOCHS, seed=3), 60)]
    resumed = Mixture(WEIGHTS, EPOCHS, seed=3)
    resumed.skip(40)
    assert [row["id"].split("/")[0] for row in first(resumed, 20)] == whole[40:]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, "no corpus; write `corpus: weight` lines"),
        ({"edits": 0.0}, "edits: found weight 0.0; write one above 0"),
        ({"nowhere": 1.0}, "no rows were opened for 'nowhere'"),
    ],
)
def test_a_wrong_mixture_says_what_to_write(weights: dict[str, float], message: str) -> None:
    with pytest.raises(MixtureError, match=message):
        Mixture(weights, EPOCHS, seed=0)


def test_a_corpus_without_a_usable_row_is_an_error_and_no_endless_search() -> None:
    with pytest.raises(MixtureError, match="edits: no row of this corpus can be trained on"):
        first(Mixture({"edits": 1.0}, {"edits": corpus("edits", 0)}, seed=0), 1)
