"""SAM's boxes are those of its automatic masks, one point after another."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import SamImageProcessorPil, SamModel

from fireedit.models.detectors.proposals import ProposalConfig, select_proposals
from fireedit.models.detectors.sam import SAMConfig, SAMDetector, mask_boxes, stability

SIDE = 80


def point_by_point(folder: Path, detector: SAMDetector, pixels: Tensor) -> list[tuple[list[float], float]]:
    """Propose boxes and scores of one picture, uint8 [80, 80, 3], in plain loops with transformers' processing."""
    model, processor = SamModel.from_pretrained(folder), SamImageProcessorPil.from_pretrained(folder)
    config, proposed, inputs = detector.config, list[tuple[list[float], float]](), detector.preprocess(pixels[None])
    for row in range(config.points_per_side):
        for column in range(config.points_per_side):
            place = [64 * (each + 0.5) / config.points_per_side for each in (column, row)]
            with torch.no_grad():
                output = model(inputs, torch.tensor([[[place]]]), multimask_output=True)
            (masks,) = processor.post_process_masks(output.pred_masks, [(SIDE, SIDE)], [(64, 64)], binarize=False)
            for mask, score in zip(masks[0], output.iou_scores[0, 0].tolist(), strict=True):
                lower, higher = int((mask > -1).sum()), int((mask > 1).sum())
                stable = lower > 0 and higher / lower > config.stability_threshold
                if score <= config.pred_iou_threshold or not stable:
                    proposed.append(([0.0, 0.0, 1.0, 1.0], 0.0))
                    continue
                rows, columns = np.nonzero((mask > 0).numpy())
                corners = [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]
                proposed.append(([corner / SIDE for corner in corners], min(score, 1.0)))
    return proposed


@torch.no_grad()
def test_boxes_are_those_of_a_loop_over_points(sam: SAMDetector, sam_folder: Path, view: Tensor) -> None:
    proposals = sam(None, view)
    assert (
        proposals.boxes.shape == (3, 3 * 6 * 6, 4) and proposals.boxes.dtype == proposals.scores.dtype == torch.float32
    )
    for index, pixels in enumerate(view):
        boxes, scores = zip(*point_by_point(sam_folder, sam, pixels), strict=True)
        torch.testing.assert_close(proposals.boxes[index], torch.tensor(boxes), atol=1e-6, rtol=0)
        torch.testing.assert_close(proposals.scores[index], torch.tensor(scores), atol=1e-5, rtol=0)
        true = proposals.scores[index] > 0
        assert 10 < true.sum() < 100 and len(proposals.boxes[index, true].unique(dim=0)) > 5


@torch.no_grad()
def test_a_picture_gets_the_same_proposals_in_any_batch(sam: SAMDetector, view: Tensor) -> None:
    together = sam(None, view)
    for index in range(3):
        alone = sam(None, view[index : index + 1])
        assert torch.equal(alone.boxes[0], together.boxes[index])
        assert torch.equal(alone.scores[0], together.scores[index])


@torch.no_grad()
def test_a_picture_without_masks_is_its_own_region(sam_folder: Path, view: Tensor) -> None:
    strict = SAMDetector.load(SAMConfig(folder=str(sam_folder), points_per_side=2, pred_iou_threshold=1))
    proposals = strict(None, view[:1])
    selected = select_proposals(proposals.boxes[0], proposals.scores[0], ProposalConfig())
    assert proposals.boxes[0, selected].tolist() == [[0, 0, 1, 1]] and proposals.scores[0, selected].tolist() == [0]


@torch.no_grad()
def test_filling_never_goes_before_a_mask(sam: SAMDetector, view: Tensor) -> None:
    proposals = sam(None, view[:1])
    boxes, scores = proposals.boxes[0], proposals.scores[0]
    assert (scores == 0).any() and (scores > 0).any()
    for least in (0.0, 0.15, 1.0):  # with 1 it is the best one alone
        selected = select_proposals(boxes, scores, replace(ProposalConfig(), min_score=least))
        assert (scores[selected] > 0).all(), least


def test_a_box_ends_at_the_outer_edges_of_its_masks_pixels() -> None:
    masks = torch.zeros(3, 4, 8, dtype=torch.bool)
    masks[0, 1:3, 2:7] = True
    masks[1, 0, 0] = masks[1, 3, 7] = True
    masks[2, 2, 5] = True
    assert mask_boxes(masks).tolist() == [[0.25, 0.25, 0.875, 0.75], [0, 0, 1, 1], [0.625, 0.5, 0.75, 0.75]]


def test_the_stability_of_a_mask_is_the_share_that_a_higher_cut_leaves() -> None:
    masks = torch.full((2, 4, 4), -9.0)
    masks[0, :2], masks[0, 0, 0] = 5.0, 0.5
    first, nothing = stability(masks).tolist()
    assert first == 7 / 8 and math.isnan(nothing)
