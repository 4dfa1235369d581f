"""D of kind `yolov10`: YOLOv10 by the package ultralytics, which is optional: its licence is AGPL-3.0."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from diffusers import ModelMixin
from torch import Tensor

from fireedit.models.detectors.pretrained import Preprocessing, PretrainedDetector, WeightsFolder
from fireedit.models.detectors.proposals import DetectorError

SIDE = 640
"""Side of the pictures that the published weights were trained on, pixels."""
MISSING = (
    "yolov10 needs the package ultralytics, which is not installed: pip install ultralytics. Its licence is AGPL-3.0, "
    "which binds those who serve it over a network too"
)


@dataclass(frozen=True, kw_only=True)
class YOLOv10Config(WeightsFolder):
    kind: Literal["yolov10"] = "yolov10"
    folder: str
    """Folder with one file of weights, such as yolov10n.pt. It is a pickle, which runs code: take the publisher's."""


class YOLOv10Detector(PretrainedDetector, ModelMixin):
    """Boxes of YOLOv10's one-to-one head; a box's score is the probability of its best class.

    Source: YOLOv10 (arXiv 2405.14458), in ultralytics.
    """

    config_class = YOLOv10Config
    published = "model.detector.folder=FOLDER that holds one .pt file of YOLOv10, such as yolov10n.pt"

    def read(self, source: str | Path, weights: bool) -> None:
        files = sorted(Path(source).glob("*.pt"))
        if len(files) != 1:
            raise DetectorError(f"found {len(files)} .pt files")
        try:
            from ultralytics import YOLO
        except ImportError:
            raise DetectorError(MISSING) from None
        self.file = files[0].name, files[0].read_bytes()
        self.model = YOLO(files[0], task="detect").model.float()
        self.preprocess = Preprocessing(size=(SIDE, SIDE))
        if not weights:
            self.model.to("meta")

    def write(self, folder: Path) -> None:
        name, content = self.file
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)

    def propose(self, view: Tensor) -> tuple[Tensor, Tensor]:
        """Propose the head's best boxes, at most 300, cut at the image's edges."""
        found, _ = self.model(self.pixels(view))  # [B, Q, 6]: xyxy in pixels, score, class
        return (found[..., :4] / SIDE).clamp(0, 1), found[..., 4]
