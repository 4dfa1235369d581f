"""Judges score pictures case by case; measures of absent judges are left out."""

from pathlib import Path

import pytest
import torch

from fireedit.jobs.evaluation.cases import Cases, EditCase, stacked
from fireedit.jobs.evaluation.judges import Judges
from fireedit.jobs.evaluation.scene_reader import SceneReader, SceneReaderConfig, save_reader
from fireedit.models.model import preset
from fireedit.models.vision import Vision

SMALL = SceneReaderConfig(widths=(8, 16), groups=4)


@pytest.fixture(scope="module")
def cases() -> list[EditCase]:
    return Cases(64).of("unseen_seeds", "recolor", 3)


@pytest.fixture(scope="module")
def judges() -> Judges:
    torch.manual_seed(0)
    return Judges(SceneReader(SMALL).half().float().eval(), Vision(preset("nano").vision).eval())


def test_the_target_has_no_errors(judges: Judges, cases: list[EditCase]) -> None:
    for score in judges.scores(cases, stacked(cases, "target")):
        assert all(score.measures[name] == 0 for name in ("l1", "l1_inside", "l1_outside"))
        assert score.measures["perceptual"] == pytest.approx(0, abs=1e-6)
        assert score.measures["nano_dino"] == pytest.approx(1, abs=1e-5)


def test_a_copy_has_errors_only_inside_the_mask(judges: Judges, cases: list[EditCase]) -> None:
    for score in judges.scores(cases, stacked(cases, "source")):
        values = score.measures
        assert values["l1_inside"] > 0 and values["l1_outside"] == 0 and values["psnr_outside"] > values["psnr_inside"]
        assert values["perceptual"] > 0 and values["nano_dino"] < 1


def test_measures_of_absent_judges_are_left_out(judges: Judges, cases: list[EditCase]) -> None:
    assert judges.absent == ["nano_clip_i", "nano_clip_t"] and set(judges.weights) == {"parser", "dino"}
    alone = Judges(judges.reader)
    assert alone.absent == ["nano_dino", "nano_clip_i", "nano_clip_t"]
    (score, *_) = alone.scores(cases, stacked(cases, "target"))
    assert not {"nano_dino", "nano_clip_i", "nano_clip_t"} & set(score.measures)


def test_judges_are_loaded_from_a_pipelines_folder(judges: Judges, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="scene_reader"):
        Judges.load(tmp_path)
    save_reader(judges.reader, tmp_path)
    assert Judges.load(tmp_path).absent == ["nano_dino", "nano_clip_i", "nano_clip_t"]
    assert judges.vision is not None
    judges.vision.save_pretrained(tmp_path / "vision")
    assert Judges.load(tmp_path).weights == judges.weights
