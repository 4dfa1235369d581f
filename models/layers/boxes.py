"""Boxes: the two ways to write one, how far two overlap, and which of many to keep."""

import torch
from torch import Tensor


def to_xyxy(boxes: Tensor) -> Tensor:
    """[..., 4] boxes as (centre x, centre y, width, height) -> as corners (left, top, right, bottom)."""
    centre, size = boxes.split(2, dim=-1)
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


def to_cxcywh(boxes: Tensor) -> Tensor:
    """[..., 4] boxes as corners (left, top, right, bottom) -> as (centre x, centre y, width, height)."""
    top_left, bottom_right = boxes.split(2, dim=-1)
    return torch.cat([(top_left + bottom_right) / 2, bottom_right - top_left], dim=-1)


def box_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """[N, 4] and [M, 4] xyxy -> [N, M] intersection over union in [0, 1], in float32; 0 where the union is empty."""
    boxes, others = boxes.float(), others.float()
    top_left = torch.maximum(boxes[:, None, :2], others[None, :, :2])
    bottom_right = torch.minimum(boxes[:, None, 2:], others[None, :, 2:])
    intersection = (bottom_right - top_left).clamp(min=0).prod(dim=-1)
    union = _area(boxes)[:, None] + _area(others)[None, :] - intersection
    return torch.where(union > 0, intersection / union, 0.0)


def nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Greedy non-maximum suppression: walk from the best box down, drop each that overlaps a kept one too much.

    A box stays if no better box that stays overlaps it. Asked again and again of all boxes at once, this settles after
    as many rounds as the longest chain of overlaps (a handful), where a walk would wait for the GPU at every box.

    Args:
        boxes: [Q, 4] xyxy.
        scores: [Q]; of two equal ones the earlier counts as better.
        threshold: intersection over union above which the worse of two boxes goes.
    Returns:
        [R] indices into `boxes`, best first.
    """
    order = scores.argsort(descending=True, stable=True)
    overlaps = (box_iou(boxes[order], boxes[order]) > threshold).triu(diagonal=1)
    kept = torch.ones_like(order, dtype=torch.bool)
    while True:
        still_kept = ~(overlaps & kept[:, None]).any(dim=0)
        if torch.equal(still_kept, kept):
            return order[kept]
        kept = still_kept


def _area(boxes: Tensor) -> Tensor:
    """[N, 4] xyxy -> [N], 0 for a box turned inside out."""
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=-1)
