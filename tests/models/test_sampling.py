"""Shared keys change no bit of a picture; intervals and reuse do what they say, in any company."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from torch import Tensor

from fireedit.models.deep_features import run_split
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.sampling import SamplingState
from fireedit.models.speed import SpeedConfig, accelerate
from tests.factories import picture

GUIDED = {"guidance_scale": 3.0, "image_guidance_scale": 1.5}


@contextmanager
def switched(pipeline: FireEditPipeline, **switches: Any) -> Iterator[None]:
    accelerate(pipeline, SpeedConfig(**switches))
    yield
    accelerate(pipeline, SpeedConfig())


def begin(pipeline: FireEditPipeline, seed: int, steps: int, copies: int = 1, **settings: Any) -> SamplingState:
    canvas = picture(seed, 64, 64)
    percepts = pipeline.perceive([canvas])
    tokens = pipeline.understand(percepts, ["make it red"])
    generators = [torch.Generator().manual_seed(seed + each) for each in range(copies)]
    chosen = pipeline.settings.but(num_inference_steps=steps, **settings)
    return pipeline.prepare([canvas], percepts, tokens, chosen, generators, copies=[copies])


def mixed(pipeline: FireEditPipeline) -> list[SamplingState]:
    """Guided and unguided states, one with copies, of several lengths."""
    return [
        begin(pipeline, 1, 3, **GUIDED),
        begin(pipeline, 2, 2, copies=2, negative_prompt="blurry", **GUIDED),
        begin(pipeline, 3, 3),
    ]


def together(pipeline: FireEditPipeline) -> list[Tensor]:
    states = mixed(pipeline)
    while unfinished := [state for state in states if state.steps_left]:
        pipeline.denoise(*unfinished)
    return [pipeline.finish(state) for state in states]


def test_shared_keys_change_no_bit(editor: FireEditPipeline) -> None:
    plain = together(editor)
    with switched(editor, share_keys=True):
        shared = together(editor)
    assert all(torch.equal(*each) for each in zip(plain, shared, strict=True))


def test_an_offloaded_unet_is_run_by_its_forward_alone(editor: FireEditPipeline) -> None:
    assert begin(editor, 1, 1).projected is None
    with switched(editor, share_keys=True):
        assert begin(editor, 1, 1).projected is not None
        add_hook_to_module(editor.unet, ModelHook())
        assert begin(editor, 1, 1).projected is None
        remove_hook_from_module(editor.unet)


@pytest.mark.parametrize(
    "switches",
    [{"reuse_every": 2}, {"guidance_interval": (0.2, 0.8), "reuse_every": 3, "share_keys": True}],
    ids=["reuse", "interval, keys and reuse"],
)
def test_approximate_steps_are_the_same_in_any_company(editor: FireEditPipeline, switches: dict[str, Any]) -> None:
    with switched(editor, **switches):
        company = together(editor)
        alone = [editor.paint(state) for state in mixed(editor)]
    assert all(torch.equal(*each) for each in zip(company, alone, strict=True))


def test_outside_the_interval_one_branch_runs(editor: FireEditPipeline) -> None:
    with switched(editor, guidance_interval=(0.3, 0.7)):
        state = begin(editor, 1, 5, **GUIDED)
        branches = []
        while state.steps_left:
            branches.append(state.branches)
            editor.denoise(state)
    assert [timestep / 1000 for timestep in state.scheduler.timesteps.tolist()] == [0.999, 0.799, 0.599, 0.399, 0.199]
    assert branches == [1, 1, 3, 3, 1]


def test_without_the_whole_interval_the_picture_is_unguided(editor: FireEditPipeline) -> None:
    unguided = editor.paint(begin(editor, 1, 3))
    with switched(editor, guidance_interval=(0.0, 0.0)):
        assert torch.equal(editor.paint(begin(editor, 1, 3, **GUIDED)), unguided)


def test_features_are_computed_every_so_many_steps(editor: FireEditPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    reused = list[bool]()

    def run(*args: Any) -> Any:
        reused.append(args[-1] is not None)
        return run_split(*args)

    monkeypatch.setattr("fireedit.models.unet.run_split", run)
    with switched(editor, reuse_every=3):
        editor.paint(begin(editor, 1, 7))
    assert reused == [False, True, True, False, True, True, False]
