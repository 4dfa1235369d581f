"""Questionnaire as a participant goes through it: consent, one question after the other, each answered once."""

from typing import Any

from fireedit.jobs.studying.orders import picture_order, question_order
from fireedit.jobs.studying.study_folder import Question, Study
from fireedit.jobs.studying.votes import Participant, Vote, Votes

State = dict[str, Any]
"""State as the browser gets it: tokens only, neither methods nor what the next questions are."""


class UnknownParticipantError(LookupError):
    """Token that was given to nobody."""


class AnswerError(ValueError):
    """Answer that does not fit the participant's question; the message says what was found."""


class Questionnaire:
    """Study and its votes, for the participants."""

    def __init__(self, study: Study, votes: Votes, most_open: int = 0):
        """
        Args:
            most_open: participants that may come by the open link.
        """
        self.study, self.votes, self.most_open = study, votes, most_open
        self.pictures = {picture for question in study.questions for picture in (question.source, *question.pictures)}
        """Tokens of all pictures that are served."""

    def join(self) -> str | None:
        """Make a participant by the open link; None if no more are wanted."""
        return self.votes.join(self.most_open) if self.most_open else None

    def state(self, token: str) -> State:
        """Describe where a participant stands.

        Raises:
            UnknownParticipantError: the token was given to nobody.
        """
        return self._state(self._participant(token))

    def consent(self, token: str) -> State:
        """Note the consent; it may be given again."""
        self._participant(token)
        self.votes.consent(token)
        return self.state(token)

    def look_back(self, token: str, place: int) -> State | None:
        """Describe the question at a place from 1, as it was answered; None if it was not."""
        participant = self._participant(token)
        if participant.number is None or not 1 <= place <= len(participant.choices):
            return None
        return self._question(participant, participant.number, place - 1)

    def answer(self, token: str, question: str, picture: str, seconds: float) -> State:
        """Keep an answer; one that is there already stays, and the same state is returned.

        Raises:
            UnknownParticipantError: the token was given to nobody.
            AnswerError: it is not the participant's turn to answer this question, or it has no such picture.
        """
        participant = self._participant(token)
        if participant.number is None:
            raise AnswerError("found no consent yet; give it first")
        if question not in participant.choices:
            self.votes.add(self._vote(participant, participant.number, question, picture, seconds))
        return self.state(token)

    def _vote(self, participant: Participant, number: int, question: str, picture: str, seconds: float) -> Vote:
        index = self._indices(number)[min(len(participant.choices), len(self.study.questions) - 1)]
        asked = self.study.questions[index]
        if asked.token != question:
            raise AnswerError("found an answer to a question that is not the next; reload the page")
        shown = self._shown(number, index)
        if picture not in shown:
            raise AnswerError("found a picture that the question does not have; reload the page")
        return Vote(number, question, picture, shown.index(picture), seconds)

    def _participant(self, token: str) -> Participant:
        if (found := self.votes.participant(token)) is None:
            raise UnknownParticipantError(token)
        return found

    def _state(self, participant: Participant) -> State:
        count, done = len(self.study.questions), len(participant.choices)
        state: State = {"step": "done", "of": count, "answered": done}
        if participant.number is None:
            pictures = len(self.study.methods)
            return state | {"step": "consent", "pictures": pictures, "aspects": list(self.study.aspects)}
        if done < count:
            state |= {"step": "question", "question": self._question(participant, participant.number, done)}
        return state

    def _question(self, participant: Participant, number: int, place: int) -> State:
        index = self._indices(number)[place]
        question: Question = self.study.questions[index]
        return {
            "number": place + 1,
            "token": question.token,
            "instruction": question.instruction,
            "width": question.size[0],
            "height": question.size[1],
            "source": question.source,
            "pictures": self._shown(number, index),
            "chosen": participant.choices.get(question.token),
        }

    def _indices(self, number: int) -> list[int]:
        return question_order(self.study.order_key, len(self.study.questions), number)

    def _shown(self, number: int, index: int) -> list[str]:
        """List the tokens of a question's pictures by place."""
        pictures = self.study.questions[index].pictures
        return [pictures[method] for method in picture_order(self.study.order_key, len(pictures), number, index)]
