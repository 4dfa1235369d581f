"""Judges score pictures case by case; measures of absent judges are None."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fireedit.jobs.evaluation.cases import Cases, EditCase
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
    for score in judges.scores(cases, np.stack([case.target for case in cases])):
        assert (score.l1, score.l1_inside, score.l1_outside) == (0, 0, 0)
        assert score.perceptual == pytest.approx(0, abs=1e-6) and score.dino == pytest.approx(1, abs=1e-5)


def test_a_copy_has_errors_only_inside_the_mask(judges: Judges, cases: list[EditCase]) -> None:
    for score in judges.scores(cases, np.stack([case.source for case in cases])):
        assert score.l1_inside > 0 and score.l1_outside == 0
        assert score.psnr_outside > score.psnr_inside and score.perceptual > 0
        assert score.dino is not None and score.dino < 1


def test_measures_of_absent_judges_are_none(judges: Judges, cases: list[EditCase]) -> None:
    assert judges.absent == ["clip_i", "clip_t"] and set(judges.weights) == {"parser", "dino"}
    alone = Judges(judges.reader)
    assert alone.absent == ["dino", "clip_i", "clip_t"]
    (score, *_) = alone.scores(cases, np.stack([case.target for case in cases]))
    assert score.dino is None and score.clip_t is None


def test_judges_are_loaded_from_a_pipelines_folder(judges: Judges, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="scene_reader"):
        Judges.load(tmp_path)
    save_reader(judges.reader, tmp_path)
    assert Judges.load(tmp_path).absent == ["dino", "clip_i", "clip_t"]
    assert judges.vision is not None
    judges.vision.save_pretrained(tmp_path / "vision")
    assert Judges.load(tmp_path).weights == judges.weights
