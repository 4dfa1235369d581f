"""`detector.kind` chooses the detector; configurations without it, and folders of before, are DDETR."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from fireedit.models.detector import Detector, DetectorConfig
from fireedit.models.detectors.kinds import AnyDetectorConfig, build_detector, load_detector
from fireedit.models.detectors.object_detector import ObjectDetector, ObjectDetectorConfig
from fireedit.models.detectors.sam import SAMConfig, SAMDetector
from fireedit.models.detectors.yolov10 import YOLOv10Config
from fireedit.models.model import NANO, preset
from fireedit.models.pipeline import FireEditPipeline
from tests.factories import picture

ANY: TypeAdapter[Any] = TypeAdapter(AnyDetectorConfig)


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"width": 64}, DetectorConfig),
        ({"kind": "ddetr"}, DetectorConfig),
        ({"kind": "sam", "folder": "/sam", "points_per_side": 16}, SAMConfig),
        ({"kind": "hf:PekingU/rtdetr_r50vd"}, ObjectDetectorConfig),
        ({"kind": "yolov10", "folder": "/yolo"}, YOLOv10Config),
    ],
)
def test_the_kind_chooses_the_settings_which_come_back_the_same(settings: dict[str, Any], kind: type) -> None:
    config = ANY.validate_python(settings)
    assert type(config) is kind and ANY.validate_python(ANY.dump_python(config, mode="json")) == config
    assert config.proposals.max_regions == 100


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": "yolo"}, "found kind 'yolo'; write ddetr, sam, hf:NAME or yolov10"),
        ({"kind": "hf:"}, "String should match pattern"),
        ({"kind": "sam"}, "folder"),
        ({"kind": "sam", "folder": "/sam", "stability_threshold": 2}, "less than or equal to 1"),
    ],
)
def test_settings_of_no_kind_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ANY.validate_python(settings)


def test_ddetr_is_built_fresh_and_others_without_memory(sam_folder: Path, rt_detr_folder: Path) -> None:
    assert type(build_detector(preset("nano").detector)) is Detector
    published = [SAMConfig(folder=str(sam_folder)), ObjectDetectorConfig(kind=f"hf:{rt_detr_folder}")]
    for config, kind in zip(published, (SAMDetector, ObjectDetector), strict=True):
        built = build_detector(config)
        assert type(built) is kind and all(tensor.is_meta for tensor in built.parameters())
        assert not any(tensor.is_meta for tensor in load_detector(config).parameters())


def test_a_published_detector_is_loaded_wherever_its_caller_builds(rt_detr_folder: Path) -> None:
    with torch.device("meta"):
        loaded = load_detector(ObjectDetectorConfig(kind=f"hf:{rt_detr_folder}"))
    assert not any(tensor.is_meta for tensor in loaded.state_dict().values())


def edited(pipeline: FireEditPipeline) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edit a picture; returns its pixels and the regions' boxes and scores."""
    pipeline.set_progress_bar_config(disable=True)
    pictures = [picture(1), picture(2, 64, 64)]
    output = pipeline(["make it red"] * 2, pictures, generator=torch.Generator().manual_seed(0), output_type="pil")
    regions = output.regions
    return np.asarray(output.images[0]), regions[0].boxes, regions[0].scores


@pytest.mark.parametrize("name", ["sam", "rt_detr"])
def test_a_pipeline_edits_with_it_and_is_saved_whole(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    detector = request.getfixturevalue(name)
    pipeline = FireEditPipeline.from_pretrained("nano")
    own = edited(pipeline)
    pipeline.register_modules(detector=detector)
    assert FireEditPipeline.from_pipe(pipeline).detector is detector
    before = edited(pipeline)
    assert before[0].shape == (60, 80, 3) and len(before[1]) >= 1 and not np.array_equal(before[1], own[1])
    pipeline.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["detector"] == [type(detector).__module__, type(detector).__name__]
    for dtype in (torch.float32, "auto"):
        after = FireEditPipeline.from_pretrained(tmp_path, dtype=dtype)
        assert type(after.detector) is type(detector)
        if dtype == torch.float32:
            assert all(np.array_equal(*pair) for pair in zip(before, edited(after), strict=True))


def test_another_precision_of_all_parts_still_edits(sam_folder: Path, rt_detr_folder: Path) -> None:
    for config in (
        SAMConfig(folder=str(sam_folder), points_per_side=2),
        ObjectDetectorConfig(kind=f"hf:{rt_detr_folder}"),
    ):
        rounded = load_detector(config).bfloat16()
        proposals = rounded(None, torch.from_numpy(picture(0, 64, 64))[None])
        assert proposals.boxes.dtype == proposals.scores.dtype == torch.float32
        assert proposals.boxes.min() >= 0 and proposals.boxes.max() <= 1 and proposals.scores.isfinite().all()


def test_folders_of_before_have_the_detector_that_they_had(tmp_path: Path) -> None:
    for part in ("detector", "vision", "region_encoder"):
        shutil.copytree(NANO / part, tmp_path / part)
    shutil.copy(NANO / "model_index.json", tmp_path)
    saved = json.loads((tmp_path / "detector" / "config.json").read_text())
    saved.pop("kind", None)
    (tmp_path / "detector" / "config.json").write_text(json.dumps(saved))
    pipeline = FireEditPipeline.from_pretrained(tmp_path, parts=FireEditPipeline.PERCEIVING)
    assert type(pipeline.detector) is Detector and pipeline.detector.config.kind == "ddetr"
