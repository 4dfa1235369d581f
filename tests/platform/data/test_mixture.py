"""The sequence of draws keeps its shares, goes through every corpus row by row, and depends on its seed only."""

import random
from collections import Counter
from itertools import pairwise

import pytest

from fireedit.platform.data.mixture import BLOCK, Draw, EpochOrder, Mixture, MixtureError

WEIGHTS = {"edits": 5.0, "answers": 1.0, "captions": 0.3, "rare": 0.01}
SIZES = {"edits": 5000, "answers": 7, "captions": 400, "rare": 90}


def drawn(count: int, start: int = 0, seed: int = 0) -> list[Draw]:
    return list(Mixture(WEIGHTS, SIZES, seed).draws(start, count))


def epoch_of(order: EpochOrder, epoch: int, rows: int) -> list[tuple[int, int]]:
    return [order.find(epoch, place) for place in range(rows)]


def test_shares_are_the_weights_in_the_whole_and_in_every_block() -> None:
    corpora = [draw.corpus for draw in drawn(10_000)]
    whole = Counter(corpora)
    for name, weight in WEIGHTS.items():
        share = weight / sum(WEIGHTS.values())
        assert whole[name] / 10_000 == pytest.approx(share, abs=0.01)
        for first in range(0, 10_000 - BLOCK, BLOCK):
            assert abs(corpora[first : first + BLOCK].count(name) - share * BLOCK) < 1


def test_no_corpus_falls_behind_in_a_long_run() -> None:
    rows = 400 * BLOCK
    counts = Counter(draw.corpus for draw in drawn(rows))
    for name, weight in WEIGHTS.items():
        assert abs(counts[name] - rows * weight / sum(WEIGHTS.values())) < 4, "what blocks round away does not add up"


def test_corpora_take_turns_within_a_block() -> None:
    corpora = [draw.corpus for draw in drawn(BLOCK)]
    changes = sum(corpus != following for corpus, following in pairwise(corpora))
    assert changes > corpora.count("answers"), "each of its rows stands between others"


def test_the_sequence_is_a_function_of_weights_sizes_and_seed() -> None:
    assert drawn(2000, seed=5) == drawn(2000, seed=5)
    corpora = [draw.corpus for draw in drawn(2000, seed=5)]
    assert corpora != [draw.corpus for draw in drawn(2000, seed=6)]
    scaled = Mixture({name: 100 * weight for name, weight in WEIGHTS.items()}, SIZES, seed=5)
    turned = Mixture(dict(reversed(WEIGHTS.items())), SIZES, seed=5)
    assert drawn(2000, seed=5) == list(scaled.draws(0, 2000)) == list(turned.draws(0, 2000))


def test_any_part_of_the_sequence_is_drawn_as_in_the_whole() -> None:
    whole, rng = drawn(5000), random.Random(0)
    assert [draw.number for draw in whole] == list(range(5000))
    near = [BLOCK - 1, BLOCK, BLOCK + 1]
    for start in [0, *near, *(rng.randrange(5000) for _ in range(60))]:
        stop = min(5000, start + rng.randrange(2 * BLOCK))
        assert drawn(stop, start) == whole[start:stop]
    assert drawn(0) == drawn(7, start=7) == []


def test_a_small_corpus_begins_again_and_never_drops_out() -> None:
    draws = [draw for draw in drawn(2000) if draw.corpus == "answers"]
    assert [(draw.epoch, draw.place) for draw in draws] == [divmod(count, 7) for count in range(len(draws))]
    assert draws[-1].epoch > 40


@pytest.mark.parametrize(
    "groups",
    [[32] * 12, [32, 32, 5], [32, 1, 32, 32, 7, 32, 32, 20], [9], [1, 1, 1]],
    ids=["full", "short last", "short within", "one only", "of one row"],
)
@pytest.mark.parametrize("window", [1, 3, 16])
def test_every_epoch_holds_every_row_once_in_an_order_of_its_own(groups: list[int], window: int) -> None:
    all_rows = [(group, row) for group, rows in enumerate(groups) for row in range(rows)]
    order = EpochOrder(groups, "edits", 0, window)
    epochs = [epoch_of(order, epoch, len(all_rows)) for epoch in range(8)]
    assert all(sorted(epoch) == all_rows for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) >= min(8, len(all_rows)), "three rows have no eight orders"
    assert epoch_of(EpochOrder(groups, "edits", 0, window), 5, len(all_rows)) == epochs[5]


def test_places_may_be_read_in_any_order() -> None:
    order, places = EpochOrder([32] * 9, "edits", 0, 2), [(epoch, place) for epoch in range(3) for place in range(288)]
    in_order = {place: order.find(*place) for place in places}
    random.Random(0).shuffle(places)
    assert {place: order.find(*place) for place in places} == in_order


def test_each_corpus_and_each_seed_has_another_order() -> None:
    pairs = [("edits", 0), ("edits", 1), ("answers", 0)]
    orders = {tuple(epoch_of(EpochOrder([32] * 4, corpus, seed, 2), 0, 128)) for corpus, seed in pairs}
    assert len(orders) == len(pairs)


def test_a_window_reads_few_groups_and_shuffles_their_rows() -> None:
    first = epoch_of(EpochOrder([32] * 40, "edits", 0, 4), 0, 128)
    groups = [group for group, _ in first]
    assert len(set(groups)) == 4 and sorted(set(groups)) != [0, 1, 2, 3], "four groups from anywhere"
    assert len(set(groups[:32])) == 4, "their rows are mixed"


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, "mixture: no corpus"),
        ({"edits": 0.0}, "edits: found weight 0.0"),
        ({"edits": -1.0}, "edits: found weight -1.0"),
        ({"edits": float("nan")}, "edits: found weight nan"),
        ({"edits": float("inf")}, "edits: found weight inf"),
        ({"nowhere": 1.0}, "nowhere: no row"),
        ({"empty": 1.0}, "empty: no row"),
    ],
)
def test_a_wrong_mixture_says_what_to_write(weights: dict[str, float], message: str) -> None:
    with pytest.raises(MixtureError, match=message):
        Mixture(weights, {"edits": 10, "empty": 0}, seed=0)
