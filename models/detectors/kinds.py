"""Kinds of detectors by name: `detector.kind` of a configuration chooses among them."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Discriminator, Tag

from fireedit.models.detector import Detector, DetectorConfig
from fireedit.models.detectors.object_detector import PREFIX, ObjectDetector, ObjectDetectorConfig
from fireedit.models.detectors.pretrained import PretrainedDetector
from fireedit.models.detectors.proposals import RegionDetector
from fireedit.models.detectors.sam import SAMConfig, SAMDetector
from fireedit.models.detectors.yolov10 import YOLOv10Config, YOLOv10Detector

OWN, HUB = "ddetr", "hf"
PRETRAINED: dict[str, type[PretrainedDetector]] = {"sam": SAMDetector, HUB: ObjectDetector, "yolov10": YOLOv10Detector}
"""Detectors that others have published."""

AnyDetector = Detector | SAMDetector | ObjectDetector | YOLOv10Detector
"""Every class of a detector, by name: diffusers' `from_pipe` takes no subclass of the type that it finds."""


def kind_of(config: Any) -> str:
    """Return the kind of a detector's settings, plain or parsed; those without one are `ddetr`."""
    kind = config.get("kind", OWN) if isinstance(config, Mapping) else config.kind
    return HUB if str(kind).startswith(PREFIX) else str(kind)


def _known(config: Any) -> Any:
    if isinstance(config, Mapping) and kind_of(config) not in (OWN, *PRETRAINED):
        raise ValueError(f"found kind {config['kind']!r}; write {OWN}, sam, {PREFIX}NAME or yolov10")
    return config


AnyDetectorConfig = Annotated[
    Annotated[DetectorConfig, Tag(OWN)]
    | Annotated[SAMConfig, Tag("sam")]
    | Annotated[ObjectDetectorConfig, Tag(HUB)]
    | Annotated[YOLOv10Config, Tag("yolov10")],
    Discriminator(kind_of),
    BeforeValidator(_known),
]
"""Settings of a detector; `kind` says of which."""


def build_detector(config: AnyDetectorConfig) -> RegionDetector:
    """Build a detector: DDETR with fresh weights, a published one on the meta device; see `load_detector`.

    Raises:
        DetectorError: the published weights are missing or of another kind.
    """
    return Detector(config) if isinstance(config, DetectorConfig) else PRETRAINED[kind_of(config)].outline(config)


def load_detector(config: AnyDetectorConfig) -> RegionDetector:
    """Load the published detector that a config names.

    Raises:
        DetectorError: it is missing, damaged or of another kind.
    """
    return PRETRAINED[kind_of(config)].load(config)
