"""The last deployment, without Ray around it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.settings import PaintSettings
from fireedit.serve.part import WeightsConfig
from fireedit.serve.unet import QueuedEdit, UNetDeployment, indices_by_settings


@pytest.fixture(scope="module")
def unet(weights: Path) -> UNetDeployment:
    return UNetDeployment(WeightsConfig(weights=str(weights)), max_batch_size=4, batch_wait_s=0)


def queued(pipeline: FireEditPipeline, image: np.ndarray, seeds: list[int], steps: int = 2) -> QueuedEdit:
    percepts = pipeline.perceive([image])
    settings = PaintSettings(num_inference_steps=steps)
    return QueuedEdit(image, percepts, pipeline.understand(percepts, ["make it red"]), settings, seeds)


def test_result_does_not_depend_on_the_rest_of_the_batch(
    unet: UNetDeployment, pipeline: FireEditPipeline, photos: list[np.ndarray]
) -> None:
    edits = [
        queued(pipeline, photos[0], [7]),
        queued(pipeline, photos[1], [8, 9], steps=3),
        queued(pipeline, photos[2], [10, 11]),
    ]
    assert indices_by_settings(edits) == [[0, 2], [1]]
    batch = unet.run(edits)
    for edited, single in zip(batch, [unet.run([edit])[0] for edit in edits], strict=True):
        for image, expected in zip(edited.images, single.images, strict=True):
            assert image.shape == expected.shape
            # Sums over a larger batch round differently: a pixel in thousands differs by one level.
            assert np.abs(image.astype(int) - expected).max() <= 1


def test_cancelled_edits_are_not_denoised(
    unet: UNetDeployment, pipeline: FireEditPipeline, photos: list[np.ndarray]
) -> None:
    before, during, finished = (queued(pipeline, photos[0], [1], steps) for steps in (2, 1000, 3))
    before.cancelled.set()
    predictions = 0

    def cancel_at_the_second_step(*_: Any) -> None:
        nonlocal predictions
        predictions += 1
        if predictions == 2:
            during.cancelled.set()

    first_layer = next(module for module in unet.pipeline.unet.modules() if isinstance(module, nn.Conv2d))
    hook = first_layer.register_forward_hook(cancel_at_the_second_step)
    results = unet.run([before, during, finished])
    hook.remove()
    assert results[0] is None and results[1] is None
    assert len(results[2].images) == 1 and predictions == 2 + 3
