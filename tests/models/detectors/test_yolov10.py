"""YOLOv10 needs an optional package, and says its licence where it is missing."""

from pathlib import Path

import pytest

from fireedit.models.detectors.proposals import DetectorError
from fireedit.models.detectors.yolov10 import YOLOv10Config, YOLOv10Detector


def test_without_the_package_the_error_says_how_to_get_it_and_its_licence(tmp_path: Path) -> None:
    (tmp_path / "yolov10n.pt").write_bytes(b"weights")
    with pytest.raises(DetectorError, match="pip install ultralytics. Its licence is AGPL-3.0"):
        YOLOv10Detector.load(YOLOv10Config(folder=str(tmp_path)))


def test_a_folder_without_one_file_of_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DetectorError, match=f"{tmp_path}: found 0 .pt files; write model.detector.folder=FOLDER"):
        YOLOv10Detector.load(YOLOv10Config(folder=str(tmp_path)))
