"""Preferences that votes show: shares with intervals, pairwise wins, Bradley-Terry strengths, balance of the order."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fireedit.jobs.evaluation.metrics import Interval, ratio
from fireedit.jobs.studying.orders import ChiSquare, picture_order, uniform_chi_square
from fireedit.jobs.studying.study_folder import Study, StudyError
from fireedit.jobs.studying.votes import Vote

TOLERANCE, MOST_STEPS = 1e-12, 10_000
"""Largest change of a strength at which the iterations end, and their number at most."""


@dataclass(frozen=True, kw_only=True)
class Preferences:
    """Figures of a study; arrays are in the order of its methods."""

    votes: list[int]
    shares: list[Interval]
    """Share of all votes; the interval draws participants."""
    wins: np.ndarray
    """Times [M, M] that the method of the row was chosen where that of the column was shown too."""
    strengths: np.ndarray
    """Bradley-Terry strengths [M], of sum 1."""
    shown: ChiSquare
    """Test that every method was shown at every place equally often."""
    chosen: ChiSquare
    """Test that every place was chosen equally often; a small p shows a habit of participants."""
    participants: int
    """Participants with votes."""
    complete: int
    """Participants who answered all questions."""
    median_seconds: float


def count_preferences(study: Study, votes: Sequence[Vote]) -> Preferences:
    """Count votes.

    Raises:
        StudyError: there are none, or they are of other questions.
    """
    if not votes:
        raise StudyError("found no votes; wait for participants, or write the --db that they are in")
    size = len(study.methods)
    numbers = sorted({vote.participant for vote in votes})
    rows = {number: row for row, number in enumerate(numbers)}
    counts, shown = np.zeros((len(numbers), size), np.int64), np.zeros((size, size), np.int64)
    places, wins = np.zeros(size, np.int64), np.zeros((size, size), np.int64)
    for vote in votes:
        order = _order(study, vote)
        method = order[vote.place]
        counts[rows[vote.participant], method] += 1
        places[vote.place] += 1
        shown[order, range(size)] += 1
        wins[method, [other for other in order if other != method]] += 1
    answered = counts.sum(axis=1)
    return Preferences(
        votes=counts.sum(axis=0).tolist(),
        shares=[ratio(column, answered) for column in counts.T],
        wins=wins,
        strengths=bradley_terry(wins),
        shown=uniform_chi_square(shown),
        chosen=uniform_chi_square(places),
        participants=len(numbers),
        complete=int((answered == len(study.questions)).sum()),
        median_seconds=float(np.median([vote.seconds for vote in votes])),
    )


def bradley_terry(wins: np.ndarray) -> np.ndarray:
    """Fit strengths p [M] of sum 1 to wins [M, M], where row i beats column j with probability p_i / (p_i + p_j).

    A method without a win gets 0. If every method is shown in every question and one is chosen, strengths are the
    shares of votes.

    Source: Hunter 2004, MM algorithms for generalized Bradley-Terry models (doi 10.1214/aos/1079120141), equation 3.
    """
    games, won = wins + wins.T, wins.sum(axis=1)
    strengths = np.full(len(wins), 1 / len(wins))
    for _ in range(MOST_STEPS):
        sums = strengths[:, None] + strengths[None]
        weights = np.divide(games, sums, out=np.zeros_like(sums), where=(games > 0) & (sums > 0)).sum(axis=1)
        following = np.divide(won, weights, out=np.zeros_like(strengths), where=weights > 0)
        following /= following.sum()
        moved, strengths = np.abs(following - strengths).max(), following
        if moved < TOLERANCE:
            break
    return strengths


def _order(study: Study, vote: Vote) -> list[int]:
    """Methods by place, as the participant saw them."""
    for index, question in enumerate(study.questions):
        if question.token == vote.question:
            order = picture_order(study.order_key, len(study.methods), vote.participant, index)
            if 0 <= vote.place < len(order) and question.pictures[order[vote.place]] == vote.picture:
                return order
    raise StudyError(f"found a vote for question {vote.question} that does not fit {study.set}; write the study's --db")
