"""The last deployment, without Ray around it."""

import asyncio
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray
import torch

from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.processor import squash
from fireedit.models.speed import SpeedConfig
from fireedit.serve import unet as unet_module
from fireedit.serve.detector import detail_of
from fireedit.serve.engine import EngineConfig, Load
from fireedit.serve.part import WeightsConfig
from fireedit.serve.schema import EditJob
from fireedit.serve.unet import UNetDeployment

SETTINGS = {"num_inference_steps": 3, "guidance_scale": 3.0, "negative_prompt": "blurry"}


@pytest.mark.parametrize("editor", ["fireedit", "instruct-pix2pix"])
def test_edit_is_the_pipelines(
    weights: Path,
    pipeline: FireEditPipeline,
    photos: list[np.ndarray],
    editor: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "ray.serve")
    config = WeightsConfig(weights=str(weights), editor=editor)
    unet = UNetDeployment(config, threads=1, engine=EngineConfig())
    canvas = squash(photos[0], 64)
    percepts = pipeline.perceive([canvas])
    edit_tokens = pipeline.understand(percepts, ["make it red"])
    detail = None if editor == "instruct-pix2pix" else detail_of(percepts)
    job = EditJob(settings=SETTINGS, seeds=(4,), caller="")
    painted = asyncio.run(unet.edit(canvas, detail, edit_tokens, job))
    assert painted.canvases[0].shape == (64, 64, 3) and painted.times.stage == "unet"
    if editor == "fireedit":
        settings = pipeline.settings.but(**SETTINGS)
        generators = [torch.Generator().manual_seed(4)]
        expected = pipeline.paint(pipeline.prepare([canvas], percepts, edit_tokens, settings, generators))
        assert np.array_equal(painted.canvases[0], pipeline.decode(expected)[0])
    assert "1 pictures" in caplog.text and "blurry" not in caplog.text
    assert asyncio.run(unet.load()) == Load(running=0, waiting=0, steps=3) and unet.queue_seconds() == 0


def test_every_batch_that_is_compiled_is_painted_before_the_first_edit(
    weights: Path, pipeline: FireEditPipeline, photos: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: dict[str, list[int]] = {"UNet2DConditionOutput": [], "Tensor": []}

    def compile_call(call: Any, **options: Any) -> Any:
        def compiled(*args: Any, **kwargs: Any) -> Any:
            output = call(*args, **kwargs)
            batches[type(output).__name__].append(len(args[0]))
            return output

        return compiled

    monkeypatch.setattr(torch, "compile", compile_call)
    speed = SpeedConfig(compile=("unet", "tati", "vae"), batch_sizes=(12, 2, 6, 4), backend="eager")
    unet = UNetDeployment(WeightsConfig(weights=str(weights), speed=speed), 1, EngineConfig(max_branches=5))
    assert batches == {"UNet2DConditionOutput": [2, 4, 6, 4], "Tensor": [2, 4, 6, 2]}
    canvas = squash(photos[0], 64)
    percepts = pipeline.perceive([canvas])
    tokens = pipeline.understand(percepts, ["make it red"])
    painted = asyncio.run(unet.edit(canvas, detail_of(percepts), tokens, EditJob(settings=SETTINGS, seeds=(4,))))
    assert set(batches["UNet2DConditionOutput"][4:]) == {4}, "three branches are padded to four"
    settings, generators = pipeline.settings.but(**SETTINGS), [torch.Generator().manual_seed(4)]
    expected = pipeline.paint(pipeline.prepare([canvas], percepts, tokens, settings, generators))
    assert np.array_equal(painted.canvases[0], pipeline.decode(expected)[0]), "the padding changes nothing"


def test_edits_of_dead_gateways_are_dropped_also_after_failed_lookups(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unet = UNetDeployment(WeightsConfig(weights=str(weights)), threads=1, engine=EngineConfig())
    looked_up, dropped = list[str](), list[set[str]]()

    def get_actor(name: str, namespace: str) -> None:
        looked_up.append(name)
        if len(looked_up) <= 2:
            raise ConnectionError("the GCS restarts")
        if name == "dead":
            raise ValueError("no such actor")

    async def paint(*edit: object) -> None:
        while not dropped:
            await asyncio.sleep(0.01)

    unet.engine = SimpleNamespace(callers={"alive", "dead"}, drop=dropped.append, paint=paint)
    monkeypatch.setattr(ray, "get_actor", get_actor)
    monkeypatch.setattr(unet_module, "WATCH_INTERVAL_S", 0.01)
    job = EditJob(settings={}, seeds=(1,), caller="dead")
    asyncio.run(asyncio.wait_for(unet.edit(np.zeros((64, 64, 3), np.uint8), None, torch.zeros(1, 77, 96), job), 10))
    assert dropped[0] == {"dead"}


def test_a_watched_edit_leaves_the_engine_with_its_reader(weights: Path) -> None:
    async def leave() -> None:
        unet = UNetDeployment(WeightsConfig(weights=str(weights)), threads=1, engine=EngineConfig())
        text = torch.zeros(1, 77, unet.pipeline.unet.config.cross_attention_dim)
        job = EditJob(settings={"num_inference_steps": 500}, seeds=(1,), partial_images=3)
        watching = unet.watch(np.zeros((64, 64, 3), np.uint8), None, text, job)
        assert (await anext(watching)).steps == 500
        await watching.aclose()
        while (load := await unet.load()).running or load.waiting:
            await asyncio.sleep(0.01)
        assert load.steps < 400

    asyncio.run(asyncio.wait_for(leave(), 30))
