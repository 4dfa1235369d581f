"""The modules of the stages train under every engine, also where one worker has only dialogue."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from fireedit.jobs.training.loading import load_pipeline
from fireedit.jobs.training.recipe import TrainRecipe, read_recipe
from fireedit.models.draws import sample_seeds
from fireedit.models.model import NANO
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.processor import Batch
from fireedit.platform.train.engine import build_engine
from fireedit.platform.train.optimizer import named_trained
from tests.factories import batch_of, caption_sample, edit_sample, spawn, vqa_sample

STEPS, PASSES = 2, 4
KINDS = [(precision, zero) for precision in ("fp32", "bf16") for zero in ("1", "2", "3", "null")]
QUICK = [("fp32", "null"), ("bf16", "1"), ("bf16", "2"), ("bf16", "3")]
BOUNDS = {"fp32": 1e-4, "bf16": 2**-5}
"""Largest relative difference of losses to those without DeepSpeed in float32; in bf16 a few roundings in a row."""


def recipe_of(stage: int, *overrides: str) -> TrainRecipe:
    """Read nano's recipe with AdamW, a UNet that trains, and checkpointing."""
    settings = ["optimizer={lr: 1.0e-3}", "gradient_checkpointing=true", "engine.micro_batch=1"]
    settings += [] if stage == 1 else ["objective={denoise_weight: 1, align_weight: 0}"]
    return read_recipe(["--stage", str(stage), *settings, *overrides])


def pass_of(pipeline: FireEditPipeline, number: int) -> Batch:
    """Make the batch of a pass: edits in those of even numbers, dialogue in the others."""
    sample = vqa_sample(number) if number % 2 else edit_sample(number)
    return replace(batch_of(pipeline, sample), seeds=sample_seeds(0, [number]))


def train(precision: str, zero: str) -> dict[str, Any]:
    """Train stage 3 for a few steps on this worker; returns what there is to compare."""
    recipe = recipe_of(3, f"engine.precision={precision}", f"engine.zero_stage={zero}")
    pipeline = load_pipeline(recipe, str(NANO))
    module = recipe.staged(pipeline)
    frozen = {name: part.clone() for name, part in module.named_parameters() if not part.requires_grad}
    config = replace(recipe.engine, accumulate=PASSES // dist.get_world_size())
    engine = build_engine(module, config, recipe.optimizer, module.exact, ema=0.9)
    losses = []
    for step in range(STEPS):
        total = torch.zeros(())
        for turn in range(config.accumulate):
            number = step * PASSES + turn * engine.workers + engine.rank
            torch.manual_seed(number)
            loss = engine.model(pass_of(pipeline, number)).total  # type: ignore[attr-defined]
            engine.step(loss, 0.5)
            total += loss.detach().float() / PASSES
        dist.all_reduce(total)
        losses.append(total.item())
    detector = {f"model.detector.{name}": part for name, part in module.model.detector.named_parameters()}
    present = {name: part for name, part in module.named_parameters() if not part.requires_grad} | detector
    whole = [name for name, part in present.items() if zero != "3" or name in detector]
    return {
        "losses": losses,
        "norm": engine.grad_norm,
        "frozen": len(whole) > 20 and all(torch.equal(present[name], frozen[name]) for name in whole),
        "detector": {part.dtype for part in detector.values()} == {torch.float32},
        "held": sum(len(part.tensors["weights"]) for part in engine.held),
    }


def work(rank: int, folder: Path, kinds: list[tuple[str, str]]) -> None:
    """Train kinds of engines on one of two processes, of which the second has only dialogue."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.save({kind: train(*kind) for kind in kinds}, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [QUICK, pytest.param(KINDS, marks=pytest.mark.soak)], ids=["quick", "all"])
def test_stage_3_trains_alike_under_every_engine_with_a_worker_that_has_only_dialogue(
    tmp_path: Path, kinds: list[tuple[str, str]]
) -> None:
    spawn(work, (tmp_path, kinds), 2)
    edits, dialogue = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    expected, norm = (edits["fp32", "null"][name] for name in ("losses", "norm"))
    for precision, zero in kinds:
        found, other = edits[precision, zero], dialogue[precision, zero]
        assert found["losses"] == other["losses"] == pytest.approx(expected, rel=BOUNDS[precision])
        assert found["norm"] == other["norm"] == pytest.approx(norm, rel=1e-3 if precision == "fp32" else 0.1)
        assert found["frozen"] and other["frozen"], "frozen parts are the same bit for bit"
        assert found["detector"] and other["detector"], "the detector is exact"
        if zero != "null":
            assert abs(found["held"] - other["held"]) < 0.1 * found["held"], "states are sharded"


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_every_batch_reaches_every_trained_weight_in_the_same_order(stage: int) -> None:
    """ZeRO reduces gradients while backward runs, over workers whose batches are of different tasks."""
    recipe = recipe_of(stage)
    pipeline = load_pipeline(recipe, str(NANO))
    module = recipe.staged(pipeline)
    trained, reached = dict(named_trained(module)), list[str]()
    for name, parameter in trained.items():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: reached.append(name))  # type: ignore[misc]

    def order(*samples: dict[str, Any]) -> Sequence[str]:
        reached.clear()
        module(batch_of(pipeline, *samples)).total.backward()
        return tuple(reached)

    if stage == 1:
        orders = {order(caption_sample(1)), order(caption_sample(2), caption_sample(3))}
    else:
        orders = {order(edit_sample(1)), order(vqa_sample(1)), order(vqa_sample(2), edit_sample(2))}
    assert len(orders) == 1 and sorted(orders.pop()) == sorted(trained)
