"""The painter, without Ray around it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.settings import PaintSettings
from fireedit.serve.part import WeightsConfig
from fireedit.serve.unet import Edit, UNet


@pytest.fixture(scope="module")
def unet(weights: Path) -> UNet:
    return UNet(WeightsConfig(weights=str(weights)), max_batch_size=4, batch_wait_s=0)


def edit(pipeline: FireEditPipeline, image: np.ndarray, seeds: list[int], steps: int = 2) -> Edit:
    percepts = pipeline.perceive([image])
    settings = PaintSettings(num_inference_steps=steps)
    return Edit(image, percepts, pipeline.understand(percepts, ["make it red"]), settings, seeds)


def test_a_picture_does_not_depend_on_its_neighbours(
    unet: UNet, pipeline: FireEditPipeline, photos: list[np.ndarray]
) -> None:
    edits = [
        edit(pipeline, photos[0], [7]),
        edit(pipeline, photos[1], [8, 9], steps=3),
        edit(pipeline, photos[2], [10, 11]),
    ]
    together = unet._paint(edits)
    for one, alone in zip(together, [unet._paint([one])[0] for one in edits], strict=True):
        for picture, expected in zip(one.images, alone.images, strict=True):
            assert picture.shape == expected.shape
            # Sums over a larger batch round otherwise: a pixel in thousands differs by one level.
            assert np.abs(picture.astype(int) - expected).max() <= 1


def test_edits_are_grouped_by_their_settings_alone(
    unet: UNet, pipeline: FireEditPipeline, photos: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    painted = []
    paint = unet.pipeline.paint
    monkeypatch.setattr(
        unet.pipeline, "paint", lambda *, images, **rest: painted.append(len(images)) or paint(images=images, **rest)
    )
    edits = [edit(pipeline, photos[0], [1]), edit(pipeline, photos[1], [2], steps=3), edit(pipeline, photos[2], [3, 4])]
    unet._paint(edits)
    assert painted == [3, 1]


def test_what_nobody_waits_for_is_not_painted(
    unet: UNet, pipeline: FireEditPipeline, photos: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    left_before, left_between, kept = (edit(pipeline, photos[0], [1], steps) for steps in (2, 1000, 3))
    left_before.abandoned.set()
    predictions = 0
    predict = unet.pipeline.unet.predict

    def leave_after_the_second_step(*args: torch.Tensor) -> torch.Tensor:
        nonlocal predictions
        predictions += 1
        if predictions == 2:
            left_between.abandoned.set()
        return predict(*args)

    monkeypatch.setattr(unet.pipeline.unet, "predict", leave_after_the_second_step)
    nothing, neither, edited = unet._paint([left_before, left_between, kept])
    assert nothing is None and neither is None and len(edited.images) == 1
    assert predictions == 2 + 3


def test_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="model_index.json"):
        UNet(WeightsConfig(weights=str(tmp_path)), max_batch_size=1, batch_wait_s=0)
