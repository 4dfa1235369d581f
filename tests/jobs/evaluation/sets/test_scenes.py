"""Drawn scenes as a set: each edit with its own seed, sessions as chains, drawn again from their keys."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fireedit.jobs.evaluation.cases import TURNS
from fireedit.jobs.evaluation.sets.evaluation_set import SetError
from fireedit.jobs.evaluation.sets.scenes import SIDE, SceneChoice, case_key, draw_again, open_set
from fireedit.platform.scenes.world import WORLDS

FEW = SceneChoice(splits=("unseen_seeds", "knowledge"), families=("remove", "reasoning"), edits=2, sessions=1)


def test_edits_have_seeds_of_their_own_and_sessions_are_chains(tmp_path: Path) -> None:
    edits = open_set(str(tmp_path), FEW)
    assert [len(chain) for chain in edits.chains] == [1] * 4 + [TURNS] + [1] * 2
    assert [turn.seed for turn in edits.turns[:2]] == list(WORLDS["unseen_seeds"].seeds[:2])
    first, second, _ = edits.chains[4]
    assert second.chained and second.source == first.output and Path(first.source).is_file()
    assert first.boxes and all(0 <= edge <= 1 for box in first.boxes for edge in box)
    tables = list(dict.fromkeys(each.table for each in edits.comparisons))
    turns = [f"unseen_seeds/session_{turn}" for turn in (1, 2, 3)]
    assert tables == ["unseen_seeds/remove", "unseen_seeds/reasoning", *turns, "knowledge/reasoning"]
    assert edits.totals == {
        "unseen_seeds": ["unseen_seeds/remove", "unseen_seeds/reasoning"],
        "knowledge": ["knowledge/reasoning"],
    }
    session = [each for each in edits.comparisons if "session" in each.table]
    assert len({each.unit for each in session}) == 1 and {each.source for each in session} == {first.source}


def test_the_fingerprint_is_that_of_what_is_drawn(tmp_path: Path) -> None:
    edits = open_set(str(tmp_path / "a"), FEW)
    assert edits.fingerprint == open_set(str(tmp_path / "b"), FEW).fingerprint
    more = SceneChoice(splits=FEW.splits, families=FEW.families, edits=3, sessions=1)
    assert edits.fingerprint != open_set(str(tmp_path / "a"), more).fingerprint


def test_a_case_is_drawn_again_from_its_key(tmp_path: Path) -> None:
    for turn, comparison in zip(
        *(lambda edits: (edits.turns, edits.comparisons))(open_set(str(tmp_path), FEW)), strict=True
    ):
        cases, place = draw_again(comparison.case)
        assert case_key(cases[place]) == comparison.case and cases[place].instruction == turn.instruction
        with Image.open(comparison.reference) as target:
            assert target.size == (SIDE, SIDE) and np.array_equal(np.asarray(target), cases[place].target)


def test_unknown_names_and_empty_choices_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SetError, match="--splits: found 'train'; write some of unseen_seeds"):
        SceneChoice(splits=("train",))
    with pytest.raises(SetError, match="--families: found 'paint'"):
        SceneChoice(families=("paint",))
    with pytest.raises(SetError, match="--splits knowledge --families add: found no edits"):
        open_set(str(tmp_path), SceneChoice(splits=("knowledge",), families=("add",)))
