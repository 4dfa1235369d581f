"""MagicBrush as an evaluation: names, sources and targets of both protocols, and what is refused."""

import json
from pathlib import Path

import pytest

from fireedit.jobs.evaluation.sets.evaluation_set import SetError
from fireedit.jobs.evaluation.sets.magicbrush import MULTI, SIZES, open_set
from fireedit.platform.data.corpora.rows import CorpusError
from tests.jobs.evaluation.magicbrush_folder import write_magicbrush

THIRD = "40034"
"""Session of three turns."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_magicbrush(tmp_path)


def test_single_turns_start_from_true_targets_and_multi_turns_from_own_outputs(root: Path) -> None:
    edits = open_set(str(root), "test", partial=True)
    of_third = {turn.output: turn for turn in edits.turns if turn.output.startswith(THIRD)}
    sources = {
        output.removeprefix(f"{THIRD}/{THIRD}_"): Path(turn.source).name.removeprefix(THIRD)
        for output, turn in of_third.items()
    }
    assert sources == {
        "1.png": "-input.png",
        "iter_2.png": "_1.png",
        "iter_3.png": "_iter_2.png",
        "inde_2.png": "-output1.png",
        "inde_3.png": "-output2.png",
    }
    assert [turn.chained for turn in of_third.values()] == [False, True, True, False, False]
    assert [len(chain) for chain in edits.chains] == [1, 2, 1, 3, 1, 1, 1, 2, 1]


def test_single_counts_turns_and_multi_the_last_of_each_session(root: Path) -> None:
    edits = open_set(str(root), "test", partial=True)
    outputs = {table: [] for table in ("single-turn", "multi-turn")}
    for each in edits.comparisons:
        outputs[each.table].append((Path(each.output).name, Path(each.reference).name))
    assert len(outputs["single-turn"]) == 9 and len(outputs["multi-turn"]) == 5
    assert (f"{THIRD}_inde_2.png", f"{THIRD}-output2.png") in outputs["single-turn"]
    assert outputs["multi-turn"][2] == (f"{THIRD}_iter_3.png", f"{THIRD}-output3.png")
    assert outputs["multi-turn"][0] == ("40000_1.png", "40000-output1.png"), "a session of one turn counts in both"
    multi = [each for each in edits.comparisons if each.table == MULTI]
    assert [each.unit for each in multi] == ["40000", "40017", "40034", "40051", "40068"]
    assert multi[2].caption == "a red car" and multi[2].global_caption.startswith("a car on a road that is very long")


def test_the_published_sizes_are_asserted(root: Path) -> None:
    assert SIZES == {"dev": (266, 528), "test": (535, 1053)}
    with pytest.raises(SetError, match=r"found 5 sessions of 9 turns, not 535 sessions of 1053 turns; write --partial"):
        open_set(str(root), "test")
    assert open_set(str(root), "test", partial=True).partial


@pytest.mark.parametrize("name", ["local_descriptions.json", "global_descriptions.json"])
def test_missing_captions_are_refused(root: Path, name: str) -> None:
    path = root / "test" / name
    captions = json.loads(path.read_text())
    del captions[THIRD][f"{THIRD}-output2.png"]
    path.write_text(json.dumps(captions))
    with pytest.raises(SetError, match=rf"{name}: 1 of 9 targets have no caption"):
        open_set(str(root), "test", partial=True)
    path.unlink()
    with pytest.raises(SetError, match=rf"{name}: 9 of 9 targets have no caption"):
        open_set(str(root), "test", partial=True)


def test_a_broken_turn_is_named(root: Path) -> None:
    path = root / "test" / "edit_sessions.json"
    sessions = json.loads(path.read_text())
    sessions[THIRD][1]["instruction"] = ""
    path.write_text(json.dumps(sessions))
    with pytest.raises(SetError, match=f"1 of 9 turns cannot be read, first magicbrush/test/{THIRD}-2"):
        open_set(str(root), "test", partial=True)


def test_other_pictures_or_instructions_are_another_set(root: Path) -> None:
    before = open_set(str(root), "test", partial=True).fingerprint
    path = root / "test" / "edit_sessions.json"
    path.write_text(path.read_text().replace("make it red", "make it green"))
    assert open_set(str(root), "test", partial=True).fingerprint != before


def test_a_folder_without_the_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"edit_sessions.json"):
        open_set(str(tmp_path), "dev")
