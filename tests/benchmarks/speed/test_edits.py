"""Switches of the benchmark leave the pipeline as it was; operations are counted without values."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fireedit.benchmarks.speed.edits import Edits, sizes, step_flops
from fireedit.models.speed import SpeedConfig


def test_operations_of_the_papers_step_are_counted() -> None:
    assert step_flops(sizes(tiny=False)) == pytest.approx(2.414e12, rel=0.01)


def test_switches_are_taken_back() -> None:
    edits = Edits.fresh(sizes(tiny=True), torch.device("cpu"), torch.float32)
    unet = edits.pipeline.unet
    speed = SpeedConfig(channels_last=True, compile={"unet": (3,)}, backend="eager", prefixes=1)
    with edits.switched(speed):
        assert unet._compiled_call_impl is not None and edits.pipeline.prefixes is not None
        assert not unet.conv_in.weight.is_contiguous()
    assert unet._compiled_call_impl is None and edits.pipeline.prefixes is None and unet.conv_in.weight.is_contiguous()
    assert edits.pipeline.speed == SpeedConfig()
    latents = edits.edit(2)
    taken = edits.latency(2, repeats=1, plain=latents + latents.std())
    assert taken["latents_apart"] == pytest.approx(1)
    seconds = sum(value for name, value in taken.items() if name.endswith("_s"))
    assert taken["edit_s"] == pytest.approx(seconds / 2)


def test_pictures_have_the_most_regions() -> None:
    config = sizes(tiny=True)
    edits = Edits.fresh(config, torch.device("cpu"), torch.float32)
    side = config.vae.sample_size
    canvases = [np.full((side, side, 3), 90, np.uint8)] * 2
    regions = [len(tokens) for tokens in edits.pipeline.perceive(canvases).region_tokens]
    assert regions == [config.detector.proposals.max_regions] * 2 and regions[0] > 1


def test_noise_is_drawn_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = list[str]()
    generator = SimpleNamespace(manual_seed=lambda _: None)
    monkeypatch.setattr(torch, "Generator", lambda device: drawn.append(str(device)) or generator)
    stages = dict.fromkeys(("perceive", "understand", "prepare", "paint", "decode"), lambda *_: None)
    pipeline: Any = SimpleNamespace(vae=SimpleNamespace(config=SimpleNamespace(sample_size=8)), **stages)
    edits = Edits(pipeline, torch.device("cuda"))
    edits.edit(1)
    edits.edit(1, count=2, noise_from="cpu")
    assert drawn == ["cuda", "cpu", "cpu"]
