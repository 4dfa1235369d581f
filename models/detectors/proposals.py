"""Protocol of the region detectors, and the selection of regions for the VLM, which is the same for all."""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from fireedit.models.layers.boxes import nms
from fireedit.models.layers.component import Component
from fireedit.models.vision import VisionFeatures


class DetectorError(ValueError):
    """A detector that cannot be built; the message names the weights and what to write instead."""


@dataclass(frozen=True, kw_only=True)
class ProposalConfig:
    nms_iou: float = 0.6
    """Intersection over union above which the lower-scored of two boxes is dropped."""
    min_score: Annotated[float, Field(ge=0, le=1)] = 0.15
    """Score that a region must exceed."""
    max_regions: int = 100
    """Maximum number of regions for the VLM, L_r in the paper."""


@dataclass(frozen=True)
class Proposals:
    """Candidate regions of B images, unsorted and overlapping; `select_proposals` picks from them.

    A detector that finds fewer than Q in an image fills the rest with the whole image at score 0. No true proposal
    scores 0, so that the filling never goes before one, and an image without any has itself as its one region.
    """

    boxes: Tensor
    """[B, Q, 4] xyxy in [0, 1] of the image's sides, float32."""
    scores: Tensor
    """[B, Q] in [0, 1], confidence that the box holds one object, float32."""


class RegionDetector(Component):
    """Protocol of the detectors, from pictures to candidate regions; frozen and in float32 in every stage.

    Args:
        config: frozen dataclass of the kind, with `kind` and `proposals`.
    """

    def __init__(self, config: Any):
        super().__init__(config)
        self.proposal_config: ProposalConfig = config.proposals

    def forward(self, features: VisionFeatures, view: Tensor) -> Proposals:
        """Propose regions of B images; those of an image do not depend on the others.

        Args:
            features: of the vision tower, which ran before; for detectors that have no backbone of their own.
            view: uint8 RGB [B, V, V, 3], the same pictures squashed to a square.
        """
        raise NotImplementedError


def select_proposals(boxes: Tensor, scores: Tensor, config: ProposalConfig) -> Tensor:
    """Pick the regions for the VLM, best first.

    Args:
        boxes: [Q, 4] xyxy in [0, 1] of the image's sides.
        scores: [Q] in [0, 1], confidence that the box holds one object.
    Returns:
        [R] indices into `boxes`, 1 <= R <= config.max_regions: the best one if none scores above config.min_score.
    Source: Groma (arXiv 2404.13013), proposal selection. Departure: Groma shuffles the regions; here they stay in order
        of score, so that an edit can be repeated.
    """
    passing = (scores > config.min_score).nonzero().squeeze(1)  # a box drops lower-scored ones only: NMS may come last
    if len(passing) == 0:
        return scores.argsort(descending=True, stable=True)[:1]
    return passing[nms(boxes[passing], scores[passing], config.nms_iou)][: config.max_regions]
