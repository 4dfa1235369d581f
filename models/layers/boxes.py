"""Boxes: conversion between formats, intersection over union, non-maximum suppression."""

import torch
from torch import Tensor


def to_xyxy(boxes: Tensor) -> Tensor:
    """Convert boxes [..., 4] from (center x, center y, width, height) to corners (left, top, right, bottom)."""
    center, size = boxes.split(2, dim=-1)
    return torch.cat([center - size / 2, center + size / 2], dim=-1)


def to_cxcywh(boxes: Tensor) -> Tensor:
    """Convert boxes [..., 4] from corners (left, top, right, bottom) to (center x, center y, width, height)."""
    top_left, bottom_right = boxes.split(2, dim=-1)
    return torch.cat([(top_left + bottom_right) / 2, bottom_right - top_left], dim=-1)


def box_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Compute the intersection over union [N, M] of boxes [N, 4] and [M, 4] xyxy, float32; 0 for an empty union."""
    boxes, others = boxes.float(), others.float()
    top_left = torch.maximum(boxes[:, None, :2], others[None, :, :2])
    bottom_right = torch.minimum(boxes[:, None, 2:], others[None, :, 2:])
    intersection = (bottom_right - top_left).clamp(min=0).prod(dim=-1)
    area, other_area = ((each[:, 2:] - each[:, :2]).clamp(min=0).prod(dim=-1) for each in (boxes, others))
    union = area[:, None] + other_area - intersection
    return torch.where(union > 0, intersection / union, 0.0)


def nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Select boxes by greedy non-maximum suppression: drop each box that overlaps a kept, better one too much.

    All boxes are tested at once until the selection no longer changes, which takes as many rounds as the longest chain
    of overlaps (a handful); a loop over boxes would wait for the GPU at every box.

    Args:
        boxes: [Q, 4] xyxy.
        scores: [Q]; of two equal scores the earlier ranks first.
        threshold: intersection over union above which the lower-scored of two boxes is dropped.
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
