"""Chains of an evaluation's turns: a chained turn follows the one before it."""

from fireedit.jobs.evaluation.sets.evaluation_set import EvaluationSet, Turn


def test_chained_turns_follow_the_turn_before() -> None:
    names = [("a_1", False), ("a_iter_2", True), ("a_inde_2", False), ("b_1", False)]
    turns = [Turn(output=name, instruction="x", source="s", chained=chained) for name, chained in names]
    edits = EvaluationSet(name="x", fingerprint="", turns=turns, comparisons=[], columns=[])
    assert [[turn.output for turn in chain] for chain in edits.chains] == [["a_1", "a_iter_2"], ["a_inde_2"], ["b_1"]]
