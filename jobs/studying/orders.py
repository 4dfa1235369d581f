"""Order of questions and of pictures for every participant, balanced, and the chi-square of places."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch


def question_order(key: str, questions: int, participant: int) -> list[int]:
    """Shuffle the indices of questions for a participant, the first of whom is 0."""
    return random.Random(f"{key} questions {participant}").sample(range(questions), questions)


def picture_order(key: str, methods: int, participant: int, question: int) -> list[int]:
    """List the index of the method that stands at each place, for a participant and the index of a question.

    Every method stands once at every place over as many successive participants as there are methods, and over as many
    successive questions of one participant. Neighbors change from one such block to the next.
    """
    draw = random.Random(f"{key} pictures {participant // methods} {question // methods}")
    rows, columns = draw.sample(range(methods), methods), draw.sample(range(methods), methods)
    order = [0] * methods
    for method in range(methods):
        order[columns[(rows[method] + participant + question) % methods]] = method
    return order


@dataclass(frozen=True)
class ChiSquare:
    """Pearson's test that all cells are expected to be equal."""

    statistic: float
    freedom: int
    """Degrees of freedom."""
    p: float
    """Probability of a statistic at least as large."""


def uniform_chi_square(counts: Sequence[Sequence[int]] | Sequence[int] | np.ndarray) -> ChiSquare:
    """Test counts [N] of N cells, or [M, N] whose sums over rows and over columns are fixed."""
    observed = np.asarray(counts, np.float64)
    if not observed.any():
        return ChiSquare(math.nan, 0, math.nan)
    statistic = float(np.square(observed - observed.mean()).sum() / observed.mean())
    freedom = math.prod(side - 1 for side in observed.shape)
    halves = torch.tensor([freedom / 2, statistic / 2], dtype=torch.float64)
    return ChiSquare(statistic, freedom, float(torch.special.gammaincc(halves[0], halves[1])))
