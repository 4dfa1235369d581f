"""Tiny published detectors of random weights, shared by the tests of the detectors."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fireedit.benchmarks.tiny_detectors import save_tiny_rt_detr, save_tiny_sam
from fireedit.models.detectors.object_detector import ObjectDetector, ObjectDetectorConfig
from fireedit.models.detectors.sam import SAMConfig, SAMDetector
from tests.factories import picture


@pytest.fixture(scope="session")
def sam_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_sam(tmp_path_factory.mktemp("published") / "tiny-sam")


@pytest.fixture(scope="session")
def rt_detr_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_rt_detr(tmp_path_factory.mktemp("published") / "tiny-rt-detr")


@pytest.fixture(scope="session")
def sam(sam_folder: Path) -> SAMDetector:
    """SAM with thresholds that about half of the tiny one's masks pass."""
    thresholds = {"pred_iou_threshold": 0.4, "stability_threshold": 0.5}
    return SAMDetector.load(SAMConfig(folder=str(sam_folder), points_per_side=6, points_per_batch=8, **thresholds))


@pytest.fixture(scope="session")
def rt_detr(rt_detr_folder: Path) -> ObjectDetector:
    return ObjectDetector.load(ObjectDetectorConfig(kind=f"hf:{rt_detr_folder}"))


@pytest.fixture(scope="session")
def view() -> Tensor:
    """Three views, uint8 RGB [3, 80, 80, 3], of another size than the detectors read."""
    return torch.from_numpy(np.stack([picture(seed, 80, 80) for seed in range(3)]))
