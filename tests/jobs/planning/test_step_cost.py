"""Cost of nano's step on fake tensors, beside the same step on real ones."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from fireedit.benchmarks.tiny_detectors import save_tiny_rt_detr, save_tiny_sam
from fireedit.jobs.planning.example_batch import example_batch
from fireedit.jobs.planning.most_regions import propose_most_regions
from fireedit.jobs.planning.step_cost import StepCost, build_on_meta, measure_step
from fireedit.jobs.training.recipe import TrainRecipe, read_recipe
from fireedit.models.pipeline import FireEditPipeline


@pytest.fixture(scope="module")
def fp32(nano: TrainRecipe) -> TrainRecipe:
    return replace(nano, engine=replace(nano.engine, precision="fp32"))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_saved_bytes_are_those_of_a_real_step(
    nano_costs: Mapping[bool, StepCost], fp32: TrainRecipe, checkpointing: bool
) -> None:
    module = replace(fp32, gradient_checkpointing=checkpointing).staged(FireEditPipeline.fresh(seed=0))
    propose_most_regions(module.model.detector)
    weights = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    saved = dict[int, int]()

    def keep(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        total = module(example_batch(fp32, 2)).total
    found = sum(size for storage, size in saved.items() if storage not in weights)
    cost = nano_costs[checkpointing]
    assert cost.saved.of(2) + cost.logits.of(2) == pytest.approx(found, rel=0.01)
    assert total.isfinite()


def test_flops_are_those_that_torch_counts(nano_costs: Mapping[bool, StepCost], fp32: TrainRecipe) -> None:
    """torch's counter knows no CPU's attention, which is a small part at nano."""
    module = fp32.staged(FireEditPipeline.fresh(seed=0))
    propose_most_regions(module.model.detector)
    with FlopCounterMode(display=False) as counter:
        module(example_batch(fp32, 1)).total.backward()
    cost = nano_costs[False]
    assert cost.total("forward") + cost.total("backward") == pytest.approx(counter.get_total_flops(), rel=0.1)


def test_checkpointing_saves_less_and_computes_more(nano_costs: Mapping[bool, StepCost]) -> None:
    plain, checkpointed = nano_costs[False], nano_costs[True]
    assert checkpointed.saved.of(8) < plain.saved.of(8) / 2
    assert checkpointed.peak(8) < plain.peak(8) / 2
    assert checkpointed.total("forward") == plain.total("forward")
    assert checkpointed.total("backward") > 1.2 * plain.total("backward")


def test_the_peak_is_at_least_what_is_saved(nano_costs: Mapping[bool, StepCost]) -> None:
    for cost in nano_costs.values():
        for samples in (1, 4, 16):
            assert cost.peak(samples) >= cost.saved.of(samples) + cost.logits.of(samples)


def test_every_part_that_runs_has_flops(nano_costs: Mapping[bool, StepCost]) -> None:
    flops = nano_costs[False].flops
    backward = {part for (phase, part), count in flops.items() if phase == "backward" and count}
    assert backward == {"vlm", "qformer", "tati", "hvca", "unet"}
    assert {"vision", "detector", "region_encoder"} <= {part for _, part in flops}


def test_bfloat16_leaves_exact_parts_alone(nano: TrainRecipe) -> None:
    module = build_on_meta(nano)
    assert {parameter.dtype for parameter in module.model.detector.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in module.model.unet.parameters()} == {torch.bfloat16}


def test_views_that_hvca_does_not_read_cost_nothing(nano: TrainRecipe, nano_costs: Mapping[bool, StepCost]) -> None:
    model = replace(nano.model, hvca=replace(nano.model.hvca, sources="coarse"))
    coarse = measure_step(replace(nano, model=model), checkpointing=False).flops
    both = nano_costs[False].flops
    assert coarse["forward", "vision"] < 0.7 * both["forward", "vision"]
    assert coarse["forward", "hvca"] < both["forward", "hvca"]


def test_an_ablation_of_stage_2_is_measured(nano: TrainRecipe) -> None:
    cost = measure_step(replace(nano, stage=2, without=("regions",)), checkpointing=False)
    assert "region_encoder" not in {part for _, part in cost.flops}
    assert cost.tokens == measure_step(replace(nano, stage=1), checkpointing=False).tokens + 16  # its image


@pytest.mark.parametrize("kind", ["sam", "rt-detr"])
def test_the_cost_of_a_published_detector_is_measured(
    tmp_path: Path, nano_costs: Mapping[bool, StepCost], kind: str
) -> None:
    if kind == "sam":
        words = [f"model.detector={{kind: sam, folder: {save_tiny_sam(tmp_path)}, points_per_side: 4}}"]
    else:
        words = [f"model.detector.kind=hf:{save_tiny_rt_detr(tmp_path)}"]
    recipe = read_recipe(["--stage", "3", *words])
    cost, own = measure_step(recipe, checkpointing=False), nano_costs[False]
    assert 0 < cost.flops["forward", "detector"] != own.flops["forward", "detector"]
    assert cost.tokens == own.tokens and not cost.flops.get(("backward", "detector"))
