"""D of kind `sam`: the boxes of Segment Anything's automatic masks, for transformers' SamModel."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from diffusers import ModelMixin
from pydantic import Field, PositiveInt
from torch import Tensor
from transformers import AutoModel, SamConfig

from fireedit.models.detectors.pretrained import PretrainedDetector, WeightsFolder
from fireedit.models.detectors.proposals import DetectorError

MASK_THRESHOLD, STABILITY_OFFSET = 0.0, 1.0
"""Logit of a mask's edge, and its move either way over which a stable mask hardly changes."""

Ratio = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class SAMConfig(WeightsFolder):
    """Settings of the automatic masks; the defaults are those of the published generator."""

    kind: Literal["sam"] = "sam"
    folder: str
    """Folder of published weights, such as facebook/sam-vit-huge."""
    points_per_side: PositiveInt = 32
    """Points along each side of the grid; each proposes three masks."""
    points_per_batch: PositiveInt = 64
    """Points that are decoded at once, which bounds the memory."""
    pred_iou_threshold: Ratio = 0.88
    """Intersection over union with the true mask, as SAM predicts it, that a mask must exceed."""
    stability_threshold: Ratio = 0.95
    """Intersection over union of a mask cut a little lower and higher that it must exceed."""


class SAMDetector(PretrainedDetector, ModelMixin):
    """Boxes of the masks that SAM proposes at a grid of points; a box's score is the predicted IoU of its mask.

    Source: Segment Anything (arXiv 2304.02643), automatic mask generation, with transformers' thresholds and resizing.
        Departures: one crop, the published default; NMS is that of all detectors; a box ends at its last pixel's
        outer edge.
    """

    config_class, auto_class, batched = SAMConfig, AutoModel, False
    published = "model.detector.folder=FOLDER of a SamModel as transformers saves it, such as facebook/sam-vit-huge"

    def check(self, config: Any) -> None:
        if not isinstance(config, SamConfig):
            raise DetectorError(f"found a {config.model_type}, not a sam")

    def propose(self, view: Tensor) -> tuple[Tensor, Tensor]:
        """Propose three boxes per point of one image, Q = 3 * points_per_side ** 2, in batches of points."""
        model, config, pixels = self.model, self.config, self.pixels(view)
        embeddings = model.get_image_embeddings(pixels)  # type: ignore[operator]
        centers = (torch.arange(config.points_per_side, device=pixels.device) + 0.5) / config.points_per_side
        points = torch.cartesian_prod(centers, centers).flip(-1) * pixels.shape[-1]  # row by row, x before y
        boxes, scores = [], []
        for batch in points.split(config.points_per_batch):
            output = model(image_embeddings=embeddings, input_points=batch[None, :, None], multimask_output=True)
            masks = F.interpolate(output.pred_masks[0], size=pixels.shape[-2:], mode="bilinear", align_corners=False)
            masks = F.interpolate(masks, size=view.shape[1:3], mode="bilinear", align_corners=False).flatten(0, 1)
            ious = output.iou_scores.flatten()
            kept = (ious > config.pred_iou_threshold) & (stability(masks) > config.stability_threshold)
            boxes.append(torch.where(kept[:, None], mask_boxes(masks > MASK_THRESHOLD), whole(masks)))
            scores.append(torch.where(kept, ious.clamp(0, 1), 0.0))
        return torch.cat(boxes)[None], torch.cat(scores)[None]


def stability(masks: Tensor) -> Tensor:
    """Compute the stability [N] of mask logits [N, H, W]: IoU of the masks cut above and below; NaN of nothing."""
    above, below = (masks > MASK_THRESHOLD + offset for offset in (STABILITY_OFFSET, -STABILITY_OFFSET))
    return above.sum(dim=(1, 2)) / below.sum(dim=(1, 2))


def mask_boxes(masks: Tensor) -> Tensor:
    """Compute the boxes [N, 4] xyxy in [0, 1] around masks, bool [N, H, W], none of them empty."""
    edges = []
    for lines in (masks.any(dim=1), masks.any(dim=2)):  # columns, rows
        places, count = torch.arange(lines.shape[1], device=masks.device), lines.shape[1]
        first = torch.where(lines, places, count).amin(dim=1)
        last = torch.where(lines, places, -1).amax(dim=1)
        edges.append((first / count, (last + 1) / count))
    (left, right), (top, bottom) = edges
    return torch.stack([left, top, right, bottom], dim=1)


def whole(masks: Tensor) -> Tensor:
    """Build the box of the whole image, [4]."""
    return (torch.arange(4, device=masks.device) > 1).float()
