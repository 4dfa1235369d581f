"""The set loss of the region proposer."""

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers.loss.loss_deformable_detr import DeformableDetrHungarianMatcher, DeformableDetrImageLoss

from fireedit.jobs.training.detection_loss import SetLoss
from fireedit.models.detector import Detections
from fireedit.models.layers.boxes import to_cxcywh

TRUE = [torch.tensor([[0.1, 0.2, 0.4, 0.6], [0.5, 0.5, 0.9, 0.8]]), torch.tensor([[0.3, 0.3, 0.7, 0.9]])]


def detections(boxes: list[torch.Tensor], logit: float) -> Detections:
    """Let all layers detect these boxes with the first of four queries, with this logit and its negative elsewhere."""
    placed = torch.full((2, 4, 4), 0.02) + torch.tensor([0.0, 0.0, 0.01, 0.01])
    logits = torch.full((2, 4), -logit)
    for number, image_boxes in enumerate(boxes):
        placed[number, : len(image_boxes)], logits[number, : len(image_boxes)] = image_boxes, logit
    layers = logits.expand(2, -1, -1)
    return Detections(placed, logits, placed.expand(2, -1, -1, -1), layers, layers)


def padded(boxes: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad the boxes of each image, and mark those that are objects."""
    masks = [image_boxes[:, 0] > 0 for image_boxes in boxes]
    return pad_sequence(boxes, batch_first=True), pad_sequence(masks, batch_first=True)


def test_the_set_loss_equals_that_of_transformers() -> None:
    moved = detections([boxes + 0.05 for boxes in TRUE], logit=0.5)
    classes = [torch.zeros(len(boxes), dtype=torch.int64) for boxes in TRUE]
    targets = [{"class_labels": x, "boxes": to_cxcywh(boxes)} for x, boxes in zip(classes, TRUE, strict=True)]
    matcher = DeformableDetrHungarianMatcher(2.0, 5.0, 2.0)
    stock = DeformableDetrImageLoss(matcher, num_classes=1, focal_alpha=0.25, losses=["labels", "boxes"])
    outputs = {"pred_boxes": to_cxcywh(moved.boxes[-1]), "logits": moved.coco_logits[-1][..., None]}
    losses = stock(outputs, targets)
    expected = 2 * losses["loss_ce"] + 5 * losses["loss_bbox"] + 2 * losses["loss_giou"]
    torch.testing.assert_close(SetLoss()(moved, *padded(TRUE)), 3 * expected)  # two layers, and the anchors
