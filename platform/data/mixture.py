"""One endless stream out of several corpora, in fixed shares."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

Row = dict[str, Any]


class MixtureError(ValueError):
    """A mixture that cannot be drawn from."""


class Mixture:
    """Draws a corpus by its weight, then that corpus's next row; a corpus that ends begins again.

    Every worker of a run must hold the same weights and seed: then all draw the same sequence of corpora, and none
    waits for another at the end of an epoch that only some have reached.

    Args:
        weights: corpus to share; they need not sum to 1.
        epochs: corpus to a function from the number of an epoch to its rows.
        seed: of the sequence of corpora.
    Raises:
        MixtureError: a weight is not positive, or a weighted corpus is missing.
    """

    def __init__(self, weights: Mapping[str, float], epochs: Mapping[str, Callable[[int], Iterator[Row]]], seed: int):
        check_weights(weights)
        missing = sorted(set(weights) - set(epochs))
        if missing:
            raise MixtureError(f"mixture: no rows were opened for {missing[0]!r}")
        self.names = sorted(weights)
        total = sum(weights.values())
        self._shares = [weights[name] / total for name in self.names]
        self._epochs = epochs
        self._draws = np.random.default_rng(seed)
        self.drawn = dict.fromkeys(self.names, 0)
        """Rows of each corpus so far."""
        self.epoch = dict.fromkeys(self.names, -1)
        """Which epoch each corpus is in, from 0."""

    def skip(self, draws: int) -> None:
        """Go on in the sequence of corpora as if `draws` rows had been taken; each corpus begins anew all the same."""
        for _ in range(draws):
            self._draw()

    def __iter__(self) -> Iterator[Row]:
        streams = {name: self._endless(name) for name in self.names}
        while True:
            name = self._draw()
            self.drawn[name] += 1
            yield next(streams[name])

    def _draw(self) -> str:
        return self.names[self._draws.choice(len(self.names), p=self._shares)]

    def _endless(self, name: str) -> Iterator[Row]:
        while True:
            self.epoch[name] += 1
            empty = True
            for row in self._epochs[name](self.epoch[name]):
                empty = False
                yield row
            if empty:
                raise MixtureError(f"{name}: no row of this corpus can be trained on; see the run's quarantine folder")


def check_weights(weights: Mapping[str, float]) -> None:
    """Raise MixtureError unless there is a weight and all are positive."""
    if not weights:
        raise MixtureError("mixture: no corpus; write `corpus: weight` lines")
    for name, weight in weights.items():
        if not weight > 0:
            raise MixtureError(f"mixture: {name}: found weight {weight}; write one above 0 or leave the corpus out")
