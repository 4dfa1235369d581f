"""Endless sequence of draws out of several corpora, a function of weights, sizes and a seed only.

Draw number n is the corpus and row of the run's n-th sample, for any number of workers and interruptions. A run
therefore resumes at the number that it had reached.
"""

import dataclasses
import functools
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

BLOCK = 256
"""Number of draws in which every corpus gets its share, to within one row."""
_GOLDEN = (5**0.5 - 1) / 2


class MixtureError(ValueError):
    """A mixture that cannot be drawn from."""


@dataclasses.dataclass(frozen=True)
class Draw:
    """Row of a run, by its place."""

    number: int
    """Position in the whole run, from 0."""
    corpus: str
    epoch: int
    """Finished passes over the corpus."""
    place: int
    """Position in the corpus's order of this epoch."""


class Mixture:
    """Sequence of corpora to draw from; a corpus that ends begins again, so that small ones never drop out.

    Args:
        weights: share of each corpus; they need not sum to 1.
        sizes: rows of each corpus.
        seed: seed of the sequence of corpora.
    Raises:
        MixtureError: a weight is not positive, or a corpus is missing or empty.
    """

    def __init__(self, weights: Mapping[str, float], sizes: Mapping[str, int], seed: int):
        check_weights(weights)
        for name in weights:
            if not sizes.get(name):
                raise MixtureError(f"mixture: {name}: no row of this corpus can be drawn; see its report.json")
        self.names = sorted(weights)
        self.sizes, self.seed = sizes, seed
        shares = np.array([weights[name] for name in self.names], np.float64)
        self._edges = np.append(0.0, np.cumsum(shares / shares.sum())[:-1]).tolist() + [1.0]
        self._counted = 0, np.zeros(len(self.names), np.int64)

    def draws(self, start: int, stop: int) -> Iterator[Draw]:
        """Yield draws number start, ..., stop - 1."""
        first = start // BLOCK
        counts = self._counts(first)
        for block in range(first, -(-stop // BLOCK)):
            for number, index in enumerate(self._block(block), start=block * BLOCK):
                epoch, place = divmod(int(counts[index]), self.sizes[self.names[index]])
                counts[index] += 1
                if start <= number < stop:
                    yield Draw(number, self.names[index], epoch, place)

    def _counts(self, blocks: int) -> np.ndarray:
        """Count the rows of each corpus in the first `blocks` blocks, from those that were counted last."""
        first, counts = self._counted if self._counted[0] <= blocks else (0, np.zeros(len(self.names), np.int64))
        self._counted = blocks, counts + self._split(np.arange(first, blocks)).sum(axis=1)
        return self._counted[1].copy()

    def _block(self, block: int) -> list[int]:
        """Shuffle the corpora of one block's draws; returns their indices in `names`."""
        indices = np.repeat(np.arange(len(self.names)), self._split(np.array([block]))[:, 0])
        return np.random.default_rng([self.seed, block]).permutation(indices).tolist()

    def _split(self, blocks: np.ndarray) -> np.ndarray:
        """Split each block among the corpora; returns rows, int64 [corpora, blocks].

        BLOCK points at even distances fall into the intervals of the shares. The first point moves from block to block
        by the golden ratio, so that rounding errors of one block are made up for by the next ones.
        """
        first = (blocks * _GOLDEN) % 1
        below = [np.ceil(edge * BLOCK - first).clip(0, BLOCK) for edge in self._edges]
        return np.diff(below, axis=0).astype(np.int64)


class EpochOrder:
    """Order of a corpus's rows in each epoch.

    Row groups are shuffled over the whole corpus, then rows within a window of some groups: close to a full shuffle,
    while each group is read once.

    Args:
        groups: rows in each row group.
        corpus, seed: entropy of the order, together with the epoch.
        window: groups whose rows are shuffled together.
    """

    def __init__(self, groups: Sequence[int], corpus: str, seed: int, window: int):
        self._rows = np.array(groups, np.int64)
        self._entropy, self._window = [seed, zlib.crc32(corpus.encode())], window
        self._groups_of = functools.lru_cache(maxsize=2)(self._shuffled_groups)
        self._rows_of = functools.lru_cache(maxsize=2)(self._shuffled_rows)

    def find(self, epoch: int, place: int) -> tuple[int, int]:
        """Find the group, and the row in it, at a place of an epoch."""
        _, starts = self._groups_of(epoch)
        window = int(np.searchsorted(starts, place, side="right")) - 1
        group, row = self._rows_of(epoch, window)[place - int(starts[window])]
        return int(group), int(row)

    def _shuffled_groups(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Shuffle all groups for an epoch; returns them and the places where windows begin."""
        groups = np.random.default_rng([*self._entropy, epoch]).permutation(len(self._rows))
        ends = np.cumsum(self._rows[groups])
        return groups, np.append(0, ends[self._window - 1 : -1 : self._window])

    def _shuffled_rows(self, epoch: int, window: int) -> np.ndarray:
        groups, _ = self._groups_of(epoch)
        inside = groups[window * self._window : (window + 1) * self._window]
        pairs = [(group, row) for group in inside for row in range(self._rows[group])]
        return np.random.default_rng([*self._entropy, epoch, window]).permutation(np.array(pairs))


def check_weights(weights: Mapping[str, float]) -> None:
    """Require at least one weight, and all to be positive and finite.

    Raises:
        MixtureError: none, or another value; the message names the corpus.
    """
    if not weights:
        raise MixtureError("mixture: no corpus; write `corpus: weight` lines")
    for name, weight in weights.items():
        if not 0 < weight < math.inf:
            raise MixtureError(f"mixture: {name}: found weight {weight}; write one above 0 or leave the corpus out")
