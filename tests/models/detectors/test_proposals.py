"""The selection of regions is the same for all detectors: NMS, threshold, the most, the best one at least."""

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from fireedit.models.detectors.proposals import ProposalConfig, select_proposals
from fireedit.models.layers.boxes import nms


def spread_boxes(count: int) -> Tensor:
    """Build boxes [count, 4] xyxy in a row, without overlap."""
    left = torch.arange(count) / count
    return torch.stack([left, torch.zeros(count), left + 0.9 / count, torch.ones(count)], dim=1)


def test_selection_keeps_scores_above_the_threshold_best_first() -> None:
    scores = torch.tensor([0.2, 0.15, 0.9, 0.1, 0.5])
    assert select_proposals(spread_boxes(5), scores, ProposalConfig()).tolist() == [2, 4, 0]


def test_selection_keeps_the_best_one_if_none_passes() -> None:
    scores = torch.tensor([0.02, 0.01, 0.12, 0.1])
    assert select_proposals(spread_boxes(4), scores, ProposalConfig()).tolist() == [2]


def test_selection_drops_the_worse_of_two_that_overlap() -> None:
    boxes = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.5, 0.45], [0.0, 0.0, 0.5, 0.25]])
    assert select_proposals(boxes, torch.tensor([0.5, 0.8, 0.7]), ProposalConfig()).tolist() == [1, 2]


def test_selection_stops_at_the_most_regions_and_repeats_itself() -> None:
    scores = torch.rand(300, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.5
    first = select_proposals(spread_boxes(300), scores, ProposalConfig())
    assert first.tolist() == scores.argsort(descending=True)[:100].tolist()
    assert torch.equal(first, select_proposals(spread_boxes(300), scores, ProposalConfig()))


def test_thousands_of_boxes_are_selected_as_by_nms_first() -> None:
    generator = torch.Generator().manual_seed(0)
    corners, sizes = torch.rand(2, 3000, 2, generator=generator) * 0.5
    boxes, scores = torch.cat([corners, corners + sizes], dim=1), torch.rand(3000, generator=generator)
    config = ProposalConfig(max_regions=3000)
    order = nms(boxes, scores, config.nms_iou)
    assert torch.equal(select_proposals(boxes, scores, config), order[scores[order] > config.min_score])


def test_a_threshold_below_0_would_let_the_filling_pass() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        TypeAdapter(ProposalConfig).validate_python({"min_score": -0.1})
