"""DETR's set loss for the region proposer."""

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from fireedit.models.detector import Detections
from fireedit.models.layers.boxes import to_cxcywh


class SetLoss:
    """DETR's loss for one class, after every layer and at the encoder's anchors; both heads learn all boxes.

    Focal loss, L1 and GIoU with Deformable DETR's weights. transformers computes the same image by image, which on a
    GPU takes longer than the rest of the step.
    """

    CLASS, L1, GIOU = 2.0, 5.0, 2.0

    def __call__(self, detections: Detections, true_boxes: Tensor, is_object: Tensor) -> Tensor:
        """Sum the losses of all layers.

        Args:
            true_boxes: [B, G, 4] xyxy in [0, 1], padded at the end.
            is_object: bool [B, G], false for padding.
        """
        layers = zip(detections.coco_logits, detections.sa1b_logits, detections.boxes, strict=True)
        losses = [self._layer(detections.anchor_logits[None], detections.anchor_boxes, true_boxes, is_object)]
        losses += [self._layer(torch.stack([coco, sa1b]), boxes, true_boxes, is_object) for coco, sa1b, boxes in layers]
        return torch.stack(losses).sum()

    def _layer(self, heads: Tensor, boxes: Tensor, true_boxes: Tensor, is_object: Tensor) -> Tensor:
        """Loss of one layer, whose heads, logits [H, B, Q], share boxes [B, Q, 4] and their matching."""
        matched = self._match(heads.detach().mean(dim=0), boxes.detach(), true_boxes, is_object)
        matched_boxes = boxes.gather(1, matched[..., None].expand(-1, -1, 4))
        distance = (to_cxcywh(matched_boxes) - to_cxcywh(true_boxes)).abs().sum(dim=-1)
        box_loss = self.L1 * distance + self.GIOU * (1 - generalized_iou(matched_boxes, true_boxes))
        queries = boxes.shape[1]
        labels = heads.new_zeros(len(boxes), queries + 1)  # padding is scattered to the last column
        labels = labels.scatter(1, torch.where(is_object, matched, queries), 1.0)[:, :-1].expand_as(heads)
        class_loss = focal_loss(heads, labels).sum() / len(heads)
        return (self.CLASS * class_loss + torch.where(is_object, box_loss, 0).sum()) / is_object.sum().clamp(min=1)

    def _match(self, logits: Tensor, boxes: Tensor, true_boxes: Tensor, is_object: Tensor) -> Tensor:
        """Assign queries [B, G] to the true boxes one to one at the least cost; 0 for padding."""
        class_cost = focal_loss(logits, torch.ones_like(logits)) - focal_loss(logits, torch.zeros_like(logits))
        distance = (to_cxcywh(boxes)[:, :, None] - to_cxcywh(true_boxes)[:, None]).abs().sum(dim=-1)
        overlap = generalized_iou(boxes[:, :, None], true_boxes[:, None])
        costs = self.CLASS * class_cost[..., None] + self.L1 * distance - self.GIOU * overlap
        matched = np.zeros(is_object.shape, np.int64)
        for row, cost, count in zip(matched, costs.cpu().numpy(), is_object.sum(dim=1).tolist(), strict=True):
            queries, objects = linear_sum_assignment(cost[:, :count])
            row[objects] = queries
        return torch.from_numpy(matched).to(boxes.device)


def focal_loss(logits: Tensor, labels: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss of each logit; labels are 0 or 1."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    error = torch.where(labels > 0, 1 - logits.sigmoid(), logits.sigmoid())
    return torch.where(labels > 0, alpha, 1 - alpha) * error**gamma * cross_entropy


def generalized_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Generalized intersection over union of pairs of boxes [..., 4] xyxy, in [-1, 1]."""
    intersection, hull = (
        (right_of(boxes[..., 2:], others[..., 2:]) - left_of(boxes[..., :2], others[..., :2])).clamp(min=0).prod(-1)
        for left_of, right_of in ((torch.maximum, torch.minimum), (torch.minimum, torch.maximum))
    )
    areas = ((pair[..., 2:] - pair[..., :2]).clamp(min=0).prod(dim=-1) for pair in (boxes, others))
    union = sum(areas) - intersection
    return intersection / union.clamp(min=1e-6) - (hull - union) / hull.clamp(min=1e-6)
