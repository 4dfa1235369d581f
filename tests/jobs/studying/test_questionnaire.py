"""Questionnaire: one answer per question, in the participant's order, whatever is posted."""

from pathlib import Path

import pytest

from fireedit.jobs.studying.questionnaire import AnswerError, Questionnaire, UnknownParticipantError
from fireedit.jobs.studying.votes import Votes
from tests.jobs.studying.study_evaluations import write_study


@pytest.fixture
def questionnaire(tmp_path: Path) -> Questionnaire:
    study, folder = write_study(tmp_path, 3, ("a", "b", "c"))
    return Questionnaire(study, Votes.open(f"sqlite:///{folder}/votes.db", study.token))


def test_a_participant_answers_every_question_once(questionnaire: Questionnaire) -> None:
    (token,) = questionnaire.votes.invite(1)
    state = questionnaire.state(token)
    assert (state["step"], state["of"], state["pictures"]) == ("consent", 3, 3) and "question" not in state
    state, asked = questionnaire.consent(token), []
    while state["step"] == "question":
        question = state["question"]
        asked.append((question["token"], question["pictures"][1]))
        assert question["number"] == len(asked) and question["chosen"] is None
        state = questionnaire.answer(token, *asked[-1], seconds=2.0)
        assert questionnaire.answer(token, question["token"], question["pictures"][0], 9.0) == state, "posted again"
    assert state == {"step": "done", "of": 3, "answered": 3}
    assert {name for name, _ in asked} == {each.token for each in questionnaire.study.questions}
    assert [(vote.question, vote.picture, vote.place) for vote in questionnaire.votes.all()] == [
        (*each, 1) for each in asked
    ]
    back = questionnaire.look_back(token, 2)
    assert back is not None and (back["token"], back["chosen"]) == asked[1]
    assert questionnaire.look_back(token, 4) is None and questionnaire.look_back(token, 0) is None


def test_answers_that_do_not_fit_are_refused(questionnaire: Questionnaire) -> None:
    (token,) = questionnaire.votes.invite(1)
    with pytest.raises(AnswerError, match="no consent yet"):
        questionnaire.answer(token, "q", "p", 1.0)
    question = questionnaire.consent(token)["question"]
    others = [each for each in questionnaire.study.questions if each.token != question["token"]]
    with pytest.raises(AnswerError, match="not the next"):
        questionnaire.answer(token, others[0].token, others[0].pictures[0], 1.0)
    for picture in (others[0].pictures[0], question["source"], ""):
        with pytest.raises(AnswerError, match="picture that the question does not have"):
            questionnaire.answer(token, question["token"], picture, 1.0)
    with pytest.raises(UnknownParticipantError):
        questionnaire.state("x")
    assert questionnaire.votes.all() == []


def test_participants_come_by_the_open_link_if_it_is_open(questionnaire: Questionnaire) -> None:
    assert questionnaire.join() is None
    token = Questionnaire(questionnaire.study, questionnaire.votes, most_open=1).join()
    assert token is not None and questionnaire.consent(token)["step"] == "question"
