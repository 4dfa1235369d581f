"""RT-DETR's boxes are those of its own post-processing; other folders are refused."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DetrImageProcessorPil, RTDetrForObjectDetection, RTDetrImageProcessorPil

from fireedit.models.detectors.object_detector import ObjectDetector, ObjectDetectorConfig, _has_sigmoids
from fireedit.models.detectors.proposals import DetectorError


@torch.no_grad()
def test_boxes_and_scores_are_those_of_the_published_post_processing(
    rt_detr: ObjectDetector, rt_detr_folder: Path, view: Tensor
) -> None:
    model = RTDetrForObjectDetection.from_pretrained(rt_detr_folder)
    processor = RTDetrImageProcessorPil.from_pretrained(rt_detr_folder)
    proposals = rt_detr(None, view)
    assert proposals.boxes.shape == (3, 12, 4) and proposals.boxes.min() >= 0 and proposals.boxes.max() <= 1
    pixels = rt_detr.preprocess(view)
    for index in range(3):
        (found,) = processor.post_process_object_detection(model(pixels[index : index + 1]), threshold=0.0)
        best = dict[tuple[float, ...], float]()  # of a query's classes the best, which comes first
        for box, score in zip(found["boxes"].clamp(0, 1).tolist(), found["scores"].tolist(), strict=True):
            best.setdefault(tuple(box), score)
        assert len(best) > 3, "the best queries, some of them with several classes"
        for box, score in best.items():
            near = (proposals.boxes[index] - torch.tensor(box)).abs().amax(dim=1) < 1e-5
            assert (proposals.scores[index][near] - score).abs().min() < 1e-5
        assert proposals.scores[index].max() == pytest.approx(found["scores"][0].item(), abs=1e-5)


@torch.no_grad()
def test_a_picture_gets_the_same_proposals_in_any_batch(rt_detr: ObjectDetector, view: Tensor) -> None:
    together = rt_detr(None, view)
    for index in range(3):
        alone = rt_detr(None, view[index : index + 1])
        assert torch.equal(alone.boxes[0], together.boxes[index])
        assert torch.equal(alone.scores[0], together.scores[index])


def test_the_published_post_processing_says_sigmoid_or_softmax() -> None:
    assert _has_sigmoids(RTDetrImageProcessorPil()) and not _has_sigmoids(DetrImageProcessorPil())


def _own_way(output: Any, threshold: float) -> list[dict[str, Tensor]]:
    return [{"scores": torch.tensor([0.7]), "boxes": output.pred_boxes[0]}]


@pytest.mark.parametrize(
    ("processor", "said"),
    [
        (SimpleNamespace(), "cannot read boxes from logits and pred_boxes"),
        (SimpleNamespace(post_process_object_detection=_own_way), "reads boxes or scores in a way of its own"),
    ],
)
def test_another_post_processing_is_refused(processor: Any, said: str) -> None:
    with pytest.raises(DetectorError, match=f"SimpleNamespace {said}"):
        _has_sigmoids(processor)


def test_a_folder_of_another_model_is_refused(sam_folder: Path) -> None:
    said = "found a sam, which is no object detector of transformers; write model.detector.kind=hf:FOLDER"
    with pytest.raises(DetectorError, match=f"{sam_folder}: {said}"):
        ObjectDetector.load(ObjectDetectorConfig(kind=f"hf:{sam_folder}"))
