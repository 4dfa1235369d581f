"""The last deployment, without Ray around it."""

import asyncio
import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray
import torch
from torch.utils._pytree import tree_flatten

from fireedit.models.model import Percepts, preset
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.processor import squash
from fireedit.models.schedule import ScheduleConfig
from fireedit.models.speed import SpeedConfig
from fireedit.models.unet import UNetConfig
from fireedit.models.vae import VAEConfig
from fireedit.serve import unet as unet_module
from fireedit.serve.detector import detail_of
from fireedit.serve.engine import EngineConfig, Load
from fireedit.serve.part import WeightsConfig
from fireedit.serve.schema import EditJob
from fireedit.serve.unet import UNetDeployment

DOWN, UP = ("DownEncoderBlock2D",), ("UpDecoderBlock2D",)
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


class Compiler:
    """Stand-in for torch.compile that notes what torch compiles anew for: shapes, strides and types of all inputs."""

    def __init__(self) -> None:
        self.calls = dict[str, Counter[Any]]()

    def __call__(self, call: Any, **options: Any) -> Any:
        name = type(call.__self__).__name__
        self.calls[name] = Counter()

        def compiled(*args: Any, **kwargs: Any) -> Any:
            leaves, structure = tree_flatten((args, kwargs))
            of_each = ((x.shape, x.stride(), x.dtype) if isinstance(x, torch.Tensor) else x for x in leaves)
            self.calls[name][structure, *of_each] += 1
            return call(*args, **kwargs)

        return compiled

    def sizes(self, name: str) -> list[int]:
        """Return the batches of a module, one for each kind of inputs."""
        return sorted(shape[0] for _, (shape, *_), *_ in self.calls[name])


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Compiler:
    compiler = Compiler()
    monkeypatch.setattr(torch, "compile", compiler)
    return compiler


@pytest.fixture(scope="module")
def with_vae(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a painter with Stable Diffusion's kind of VAE in place of the codec."""
    config, blocks = preset("nano"), {"block_out_channels": (8, 8), "norm_num_groups": 4, "layers_per_block": 1}
    vae = VAEConfig(sample_size=16, **blocks, down_block_types=DOWN * 2, up_block_types=UP * 2)
    kinds = {"down_block_types": ("CrossAttnDownBlock2D",) * 2, "up_block_types": ("CrossAttnUpBlock2D",) * 2}
    unet = UNetConfig(sample_size=8, cross_attention_dim=96, attention_head_dim=2, **blocks, **kinds)
    config = replace(config, vae=vae, unet=unet, schedule=ScheduleConfig())
    folder = tmp_path_factory.mktemp("with_vae")
    FireEditPipeline.fresh(config=config, parts=("hvca", "tati", "unet", "vae", "text_encoder")).save_pretrained(folder)
    return folder


def drawn_detail(pipeline: FireEditPipeline) -> Percepts:
    sources = tuple(torch.randn(1, 4, each.in_features) for each in pipeline.hvca.source_in.values())
    return Percepts(torch.zeros(1, 0), (), (), (), sources)


@pytest.mark.parametrize(
    "switches",
    [{"guidance_interval": (0.2, 0.7), "share_keys": True}, {"reuse_every": 2, "channels_last": True}],
    ids=["interval and keys", "reuse and layout"],
)
def test_nothing_is_compiled_under_load(with_vae: Path, compiler: Compiler, switches: dict[str, Any]) -> None:
    compiled = {"unet": (3, 12, 6, 1), "tati": (8, 2), "encoder": (1, 4), "decoder": (1, 4)}
    speed = SpeedConfig(compile=compiled, backend="eager", **switches)
    unet = UNetDeployment(WeightsConfig(weights=str(with_vae), speed=speed), 1, EngineConfig(max_branches=8))
    kinds = 1 if speed.reuse_every == 1 else 2
    assert compiler.sizes("EditUNet") == sorted([1, 3, 6, 12] * kinds)
    assert compiler.sizes("TATI") == [2, 8]
    assert compiler.sizes("Encoder") == [1] and compiler.sizes("Decoder") == [1, 4]
    runs = {name: dict(calls) for name, calls in compiler.calls.items()}
    assert min(count for calls in runs.values() for count in calls.values()) >= 3

    async def edits() -> None:
        canvas, tokens, detail = np.zeros((16, 16, 3), np.uint8), torch.zeros(1, 77, 96), drawn_detail(unet.pipeline)
        jobs = [
            EditJob(settings={"num_inference_steps": steps, "guidance_scale": scale}, seeds=tuple(range(pictures)))
            for steps, scale, pictures in ((5, 3.0, 1), (4, 1.0, 1), (3, 3.0, 4), (5, 1.0, 4), (3, 3.0, 2))
        ]
        await asyncio.gather(*(unet.edit(canvas, detail, tokens, job) for job in jobs))

    asyncio.run(edits())
    assert {name: set(calls) for name, calls in compiler.calls.items()} == {name: set(runs[name]) for name in runs}
    assert compiler.calls["EditUNet"].total() > sum(runs["EditUNet"].values())


def test_padding_changes_nothing(with_vae: Path, compiler: Compiler) -> None:
    compiled = {"unet": (4,), "tati": (2,), "encoder": (2,), "decoder": (3,)}
    speed = SpeedConfig(compile=compiled, backend="eager")
    unet = UNetDeployment(WeightsConfig(weights=str(with_vae), speed=speed), 1, EngineConfig(max_branches=5))
    canvas, tokens = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8), torch.randn(1, 77, 96)
    detail = drawn_detail(unet.pipeline)
    painted = asyncio.run(unet.edit(canvas, detail, tokens, EditJob(settings=SETTINGS, seeds=(4,))))
    pipeline = FireEditPipeline.from_pretrained(with_vae, parts=FireEditPipeline.PAINTING)
    settings, generators = pipeline.settings.but(**SETTINGS), [torch.Generator().manual_seed(4)]
    expected = pipeline.paint(pipeline.prepare([canvas], detail, tokens, settings, generators))
    assert np.array_equal(painted.canvases[0], pipeline.decode(expected)[0])
    assert [compiler.sizes(name) for name in ("EditUNet", "TATI", "Encoder", "Decoder")] == [[4], [2], [2], [3]]


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
