"""The first deployment, without Ray around it but for one test."""

import asyncio
import pickle
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fireedit.benchmarks.tiny_detectors import save_tiny_rt_detr, save_tiny_sam
from fireedit.models.detectors.kinds import AnyDetectorConfig, load_detector
from fireedit.models.detectors.object_detector import ObjectDetectorConfig
from fireedit.models.detectors.proposals import ProposalConfig
from fireedit.models.detectors.sam import SAMConfig
from fireedit.models.hvca import HVCA
from fireedit.models.model import preset
from fireedit.models.pipeline import FireEditPipeline
from fireedit.serve.detector import DetectorDeployment, content_key, detail_of, tokens_of
from fireedit.serve.engine import EngineConfig
from fireedit.serve.part import BatchingConfig, WeightsConfig
from fireedit.serve.prompts import served_model
from fireedit.serve.schema import DeadlineExceeded, EditJob
from fireedit.serve.unet import UNetDeployment
from tests.serve.conftest import Client


def test_result_is_pickled_without_the_rest_of_its_batch(weights: Path, photos: list[np.ndarray]) -> None:
    detector = DetectorDeployment(WeightsConfig(weights=str(weights), precision="bf16"), BatchingConfig())
    loaded = {name for name, part in detector.pipeline.components.items() if part is not None}
    assert loaded == set(FireEditPipeline.PERCEIVING)
    assert {parameter.dtype for parameter in detector.pipeline.region_encoder.parameters()} == {torch.bfloat16}
    assert detector.request_seconds > 0, "the model has run once"
    (single,) = detector.run([(photos[0], None)])
    batch = detector.run([(photo, None) for photo in photos * 2])
    assert len(batch) == 6
    for percepts in batch:
        assert len(percepts) == 1 and len(pickle.dumps(percepts)) < 1.5 * len(pickle.dumps(single))


def test_regions_given_replace_the_detectors_for_their_picture_alone(weights: Path, photos: list[np.ndarray]) -> None:
    detector = DetectorDeployment(WeightsConfig(weights=str(weights)), BatchingConfig())
    box = torch.tensor([[0.1, 0.2, 0.6, 0.9]])
    given, free = detector.run([(photos[0], box), (photos[0], None)])
    assert torch.equal(given.boxes[0], box) and given.scores[0].tolist() == [1]
    assert len(free.scores[0]) >= 1 and not torch.equal(free.boxes[0], box)


def test_the_folders_config_decides_the_sources_that_an_hvca_elsewhere_reads(
    pipeline: FireEditPipeline, photos: list[np.ndarray], tmp_path: Path
) -> None:
    coarse = HVCA(replace(preset("nano").hvca, sources="coarse"))
    whole = FireEditPipeline(**{**pipeline.components, "hvca": coarse})
    whole.save_pretrained(tmp_path)
    weights = WeightsConfig(weights=str(tmp_path))
    (served,) = DetectorDeployment(weights, BatchingConfig()).run([(photos[2], None)])
    own = whole.perceive(photos[2:])
    assert len(own.detail) == 2 and all(torch.equal(*pair) for pair in zip(own.detail, served.detail, strict=True))
    unet = UNetDeployment(weights, threads=1, engine=EngineConfig())
    job = EditJob(settings={"num_inference_steps": 1}, seeds=(4,), caller="")
    painted = asyncio.run(unet.edit(photos[2], detail_of(served), torch.zeros(1, 77, 96), job))
    assert painted.canvases[0].shape == (64, 64, 3)


@pytest.mark.parametrize("kind", ["sam", "rt-detr"])
def test_the_weights_alone_say_which_detector_is_served(
    kind: str, weights: Path, photos: list[np.ndarray], tmp_path: Path
) -> None:
    proposals = ProposalConfig(max_regions=5)
    if kind == "sam":
        folder = str(save_tiny_sam(tmp_path / "tiny"))
        thresholds = {"pred_iou_threshold": 0.3, "stability_threshold": 0.5}
        settings: AnyDetectorConfig = SAMConfig(folder=folder, points_per_side=4, proposals=proposals, **thresholds)
    else:
        settings = ObjectDetectorConfig(kind=f"hf:{save_tiny_rt_detr(tmp_path / 'tiny')}", proposals=proposals)
    pipeline = FireEditPipeline.from_pretrained(weights)
    pipeline.register_modules(detector=load_detector(settings))
    pipeline.save_pretrained(tmp_path / "saved")
    shutil.rmtree(tmp_path / "tiny")

    served = DetectorDeployment(WeightsConfig(weights=str(tmp_path / "saved"), precision="bf16"), BatchingConfig())
    assert type(served.pipeline.detector) is type(pipeline.detector)
    assert served_model(str(tmp_path / "saved")).max_regions == 5
    together = served.run([(photo, None) for photo in photos])
    for photo, percepts in zip(photos, together, strict=True):
        (alone,) = served.run([(photo, None)])
        assert 1 <= len(alone.boxes[0]) <= 5 and torch.equal(alone.boxes[0], percepts.boxes[0])
        assert torch.equal(alone.boxes[0], pipeline.perceive([photo]).boxes[0])


def test_vlm_and_unet_get_only_the_percepts_that_they_read(
    pipeline: FireEditPipeline, photos: list[np.ndarray]
) -> None:
    percepts = pipeline.perceive(photos[:1])
    tokens, detail = tokens_of(percepts), detail_of(percepts)
    assert tokens.detail == () and not detail.image_tokens.numel() and detail.region_tokens == ()
    expected = pipeline.understand(percepts, ["make it red"])
    assert torch.equal(pipeline.understand(tokens, ["make it red"]), expected)
    assert torch.equal(pipeline.model.gather_detail(expected, detail), pipeline.model.gather_detail(expected, percepts))


def test_the_key_of_a_canvas_is_its_content() -> None:
    canvas = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    assert content_key(canvas) == content_key(canvas.copy()) == content_key(np.asfortranarray(canvas))
    others = [canvas[::-1], canvas[:4], canvas.reshape(4, 16, 3), canvas.transpose(1, 0, 2)]
    assert len({content_key(each) for each in [canvas, *others]}) == 5


@pytest.mark.ray
def test_equal_pictures_are_perceived_once_and_late_ones_never(client: Client) -> None:
    from ray import serve

    detector, canvas = serve.get_deployment_handle("Detector", "fireedit"), np.full((64, 64, 3), 77, np.uint8)
    deadline = time.time() + 60
    with pytest.raises(DeadlineExceeded):
        detector.propose.remote(canvas, None, time.time() - 1, "late").result()
    calls = [detector.propose.remote(canvas, None, deadline, f"call {index}") for index in range(5)]
    seen = [call.result() for call in calls]
    assert sorted(each.times.cached for each in seen) == [False, True, True, True, True]
    assert {each.key for each in seen} == {content_key(canvas)} and len({each.tokens for each in seen}) == 1
    (times,) = (each.times for each in seen if not each.times.cached)
    assert times.stage == "detector" and times.run_s > 0 and times.queue_s >= 0
