"""Measures of drawn scenes: true targets pass, sources fail, and sessions are compared with their first source."""

import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fireedit.jobs.evaluation.judges import Judges
from fireedit.jobs.evaluation.measuring import Measuring
from fireedit.jobs.evaluation.scene_measuring import SceneReplica, judge_scenes
from fireedit.jobs.evaluation.sets.evaluation_set import Comparison, EvaluationSet
from fireedit.jobs.evaluation.sets.scenes import COLUMNS, SceneChoice, open_set


@pytest.fixture(scope="module")
def judges() -> Judges:
    return Judges.load("nano")


@pytest.fixture
def edits(tmp_path: Path) -> EvaluationSet:
    choice = SceneChoice(families=("recolor", "no_op"), edits=2, sessions=2)
    return open_set(str(tmp_path / "set"), choice)


def paint(edits: EvaluationSet, folder: Path, level: int = 0) -> list[Comparison]:
    """Write the true targets as outputs, brighter by some levels of 255."""
    for each in edits.comparisons:
        path = folder / each.output
        path.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(each.reference) as image:
            shifted = np.clip(np.asarray(image).astype(int) + level, 0, 255)
        Image.fromarray(shifted.astype(np.uint8)).save(path)
    return list(edits.comparisons)


def test_true_targets_succeed_without_errors(edits: EvaluationSet, tmp_path: Path, judges: Judges) -> None:
    found = judge_scenes(paint(edits, tmp_path / "out"), str(tmp_path / "out"), judges)
    assert all(set(values) == set(COLUMNS) for values in found.values)
    singles = found.values[:4]
    assert [values["success"] for values in singles] == [values["reader"] for values in singles] == [1] * 4
    assert all(values["l1"] == 0 and values["nano_clip_i"] == pytest.approx(1, abs=1e-5) for values in singles)
    assert all(math.isnan(values["l1_inside"]) for values in singles[2:]), "a no-op has no inside"
    turns = found.values[4:]
    assert [values["success"] for values in turns if not math.isnan(values["success"])] == [1, 1]
    assert all(values["l1_outside"] == 0 and math.isnan(values["reader"]) for values in turns)
    assert set(found.remarks) == {""} and set(found.weights) == {"parser", "dino", "clip"}


def test_a_failure_says_what_is_wrong(edits: EvaluationSet, tmp_path: Path, judges: Judges) -> None:
    comparisons = paint(edits, tmp_path / "out")
    for each in (comparisons[0], comparisons[-1]):
        with Image.open(each.source) as source:
            source.save(tmp_path / "out" / each.output)
    found = judge_scenes(comparisons, str(tmp_path / "out"), judges)
    assert found.values[0]["success"] == 0 and found.remarks[0] and found.values[0]["l1_inside"] > 0
    assert found.values[-1]["success"] == 0 and found.remarks[-1] and found.values[-1]["l1_outside"] == 0
    assert found.values[0]["reader"] == 1 and not any(found.remarks[1:-1])


def test_sessions_are_compared_outside_the_masks_of_all_turns(
    edits: EvaluationSet, tmp_path: Path, judges: Judges
) -> None:
    exact, brighter = (
        judge_scenes(paint(edits, tmp_path / str(level), level)[4:], str(tmp_path / str(level)), judges)
        for level in (0, 2)
    )
    for before, after in zip(exact.values, brighter.values, strict=True):
        assert before["l1_outside"] == 0 and after["l1_outside"] == pytest.approx(2 / 255, rel=0.2)


def test_pictures_of_another_size_are_squashed(edits: EvaluationSet, tmp_path: Path, judges: Judges) -> None:
    comparisons = paint(edits, tmp_path / "out")[:2]
    path = tmp_path / "out" / comparisons[0].output
    with Image.open(path) as image:
        large = image.resize((128, 96), Image.Resampling.NEAREST)
    large.save(path)
    found = judge_scenes(comparisons, str(tmp_path / "out"), judges)
    assert 0 < found.values[0]["l1"] < 0.05 and found.values[1]["l1"] == 0


def test_a_picture_that_cannot_be_read_is_named(edits: EvaluationSet, tmp_path: Path) -> None:
    comparisons = paint(edits, tmp_path / "out")[:2]
    broken = tmp_path / "out" / comparisons[1].output
    broken.write_text("hello")
    replica = SceneReplica(Measuring(COLUMNS, "", str(tmp_path / "out"), judges="nano"))
    answer = replica({"number": 4, "group": json.dumps([asdict(each) for each in comparisons])})
    assert answer["number"] == 4 and answer["error"].startswith(f"{broken}: found 5 bytes")
