"""Preferences: shares over participants, pairs, strengths, and votes that do not fit."""

import numpy as np
import pytest

from fireedit.jobs.studying.orders import picture_order, question_order
from fireedit.jobs.studying.preferences import bradley_terry, count_preferences
from fireedit.jobs.studying.study_folder import Study, StudyError
from fireedit.jobs.studying.votes import Vote
from tests.jobs.studying.study_evaluations import write_study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return write_study(tmp_path_factory.mktemp("study"), 6, ("a", "b", "c"))[0]


def votes_of(study: Study, participant: int, methods: list[int]) -> list[Vote]:
    """Votes of a participant for these methods, by index."""
    votes = []
    for index, method in zip(question_order(study.order_key, 6, participant), methods, strict=False):
        place = picture_order(study.order_key, 3, participant, index).index(method)
        question = study.questions[index]
        votes.append(Vote(participant, question.token, question.pictures[method], place, seconds=2.0 + method))
    return votes


def test_shares_pairs_and_strengths(study: Study) -> None:
    votes = [vote for number in range(6) for vote in votes_of(study, number, [0, 0, 0, 0, 1, 2][: 6 - number % 2])]
    found = count_preferences(study, votes)
    assert found.votes == [24, 6, 3] and (found.participants, found.complete) == (6, 3)
    assert found.shares[0].mean == pytest.approx(24 / 33) and found.shares[0].low < 24 / 33 < found.shares[0].high
    assert found.shares[0].count == 6, "participants are drawn, not votes"
    assert found.wins.tolist() == [[0, 24, 24], [6, 0, 6], [3, 3, 0]]
    assert found.strengths == pytest.approx([24 / 33, 6 / 33, 3 / 33]), "all methods in all questions: the shares"
    assert found.shown.freedom == 4 and found.chosen.freedom == 2 and found.median_seconds == 2.0


def test_complete_blocks_are_perfectly_balanced(study: Study) -> None:
    votes = [vote for number in range(3) for vote in votes_of(study, number, [0] * 6)]
    found = count_preferences(study, votes)
    assert found.shown.statistic == 0 and found.chosen.statistic == 0
    assert found.shares[0].low == 1 and found.strengths.tolist() == [1, 0, 0]


def test_strengths_of_known_odds() -> None:
    wins = np.array([[0, 80, 90], [20, 0, 0], [10, 0, 0]])
    strengths = bradley_terry(wins)
    assert strengths[0] / strengths[1] == pytest.approx(4, rel=1e-4)
    assert strengths[0] / strengths[2] == pytest.approx(9, rel=1e-4) and strengths.sum() == pytest.approx(1)


def test_votes_that_do_not_fit_are_refused(study: Study) -> None:
    (vote,) = votes_of(study, 0, [1])
    for wrong in (
        Vote(0, "other", vote.picture, vote.place, 1.0),
        Vote(0, vote.question, "other", vote.place, 1.0),
        Vote(0, vote.question, vote.picture, (vote.place + 1) % 3, 1.0),
        Vote(0, vote.question, vote.picture, 7, 1.0),
    ):
        with pytest.raises(StudyError, match="does not fit"):
            count_preferences(study, [vote, wrong])
    with pytest.raises(StudyError, match="found no votes"):
        count_preferences(study, [])
