"""The last deployment, without Ray around it."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
import torch

from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.processor import squash
from fireedit.serve.detector import detail_of
from fireedit.serve.engine import EngineConfig, Load
from fireedit.serve.part import WeightsConfig
from fireedit.serve.schema import EditJob
from fireedit.serve.unet import UNetDeployment

SETTINGS = {"num_inference_steps": 3, "guidance_scale": 3.0}


@pytest.mark.parametrize("editor", ["fireedit", "instruct-pix2pix"])
def test_edit_is_the_pipelines(
    weights: Path, pipeline: FireEditPipeline, photos: list[np.ndarray], editor: str
) -> None:
    config = WeightsConfig(weights=str(weights), editor=editor)
    unet = UNetDeployment(config, threads=1, engine=EngineConfig())
    canvas = squash(photos[0], 64)
    percepts = pipeline.perceive([canvas])
    edit_tokens = pipeline.understand(percepts, ["make it red"])
    detail = None if editor == "instruct-pix2pix" else detail_of(percepts)
    job = EditJob(settings=SETTINGS, seeds=(4,), size=(30, 20), caller="")
    painted = asyncio.run(unet.edit(canvas, detail, edit_tokens, job))
    assert painted.images[0].shape == (20, 30, 3) and painted.times.stage == "unet"
    if editor == "fireedit":
        settings = pipeline.settings.but(**SETTINGS)
        generators = [torch.Generator().manual_seed(4)]
        expected = pipeline.paint(pipeline.prepare([canvas], percepts, edit_tokens, settings, generators))
        assert np.array_equal(painted.images[0], np.asarray(pipeline.decode(expected, [(30, 20)])[0]))
    assert asyncio.run(unet.load()) == Load(running=0, waiting=0, steps=3) and unet.queue_seconds() == 0
