"""Boxes are converted without loss, and suppression equals the plain loop."""

import pytest
import torch
from torch import Tensor

from fireedit.models.layers.boxes import box_iou, nms, to_cxcywh, to_xyxy


def random_boxes(count: int, seed: int) -> Tensor:
    """Draw [count, 4] xyxy, many of which overlap."""
    generator = torch.Generator().manual_seed(seed)
    return to_xyxy(torch.rand(count, 4, generator=generator) * torch.tensor([0.6, 0.6, 0.5, 0.5]) + 0.1)


def plain_iou(box: list[float], other: list[float]) -> float:
    width = max(0.0, min(box[2], other[2]) - max(box[0], other[0]))
    height = max(0.0, min(box[3], other[3]) - max(box[1], other[1]))
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)]
    return width * height / (sum(areas) - width * height)


def plain_nms(boxes: Tensor, scores: Tensor, threshold: float) -> list[int]:
    kept: list[int] = []
    for candidate in sorted(range(len(boxes)), key=lambda row: -scores[row].item()):
        if all(plain_iou(boxes[candidate].tolist(), boxes[row].tolist()) <= threshold for row in kept):
            kept.append(candidate)
    return kept


def test_corners_and_centers_convert_to_each_other() -> None:
    assert to_xyxy(torch.tensor([0.5, 0.4, 0.2, 0.6])).tolist() == pytest.approx([0.4, 0.1, 0.6, 0.7])
    boxes = random_boxes(50, seed=0)
    torch.testing.assert_close(to_xyxy(to_cxcywh(boxes)), boxes)


def test_box_iou_agrees_with_the_plain_formula() -> None:
    boxes, others = random_boxes(7, seed=1), random_boxes(5, seed=2)
    expected = torch.tensor([[plain_iou(box, other) for other in others.tolist()] for box in boxes.tolist()])
    torch.testing.assert_close(box_iou(boxes, others), expected)


def test_box_iou_of_empty_or_inverted_boxes_is_zero() -> None:
    boxes = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.8, 0.8, 0.2, 0.2], [0.0, 0.0, 1.0, 1.0]])
    assert box_iou(boxes, boxes).tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 1]]


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.3, 0.6, 1.0])
def test_nms_agrees_with_the_plain_loop(threshold: float) -> None:
    for seed in range(5):
        boxes = random_boxes(80, seed)
        scores = torch.rand(80, generator=torch.Generator().manual_seed(seed))
        assert nms(boxes, scores, threshold).tolist() == plain_nms(boxes, scores, threshold)


def test_nms_keeps_the_earlier_of_equals_and_follows_a_chain() -> None:
    steps = torch.arange(6) * 0.05  # each box overlaps only its neighbors by more than half
    chain = torch.stack([steps, torch.zeros(6), steps + 0.2, torch.ones(6)], dim=1)
    assert nms(chain, torch.ones(6), threshold=0.5).tolist() == [0, 2, 4]


def test_nms_of_no_boxes_keeps_none() -> None:
    assert nms(torch.zeros(0, 4), torch.zeros(0), threshold=0.5).tolist() == []
