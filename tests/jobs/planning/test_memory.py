"""Arithmetic of a GPU's memory under ZeRO."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from fireedit.jobs.planning.memory import Memory, Sharding, Weights, memory_of, weights_of
from fireedit.jobs.planning.step_cost import StepCost, build_on_meta
from fireedit.jobs.training.recipe import TrainRecipe, read_recipe

WORKERS = 16


@pytest.fixture
def at(weights: Weights, round_costs: Mapping[bool, StepCost], nano: TrainRecipe) -> Mapping[int, Memory]:
    """Memory of 16 workers in bfloat16 by level of ZeRO, at micro-batch 4 without checkpointing."""
    return {zero: memory_of(weights, round_costs[False], nano, zero, 4, WORKERS) for zero in (1, 2, 3)}


def test_zero_shards_optimizer_then_gradients_then_weights(at: Mapping[int, Memory]) -> None:
    for memory in at.values():
        assert memory.masters == pytest.approx(4e9 / WORKERS) and memory.moments == pytest.approx(8e9 / WORKERS)
    assert at[1].trained == at[2].trained == 2e9
    assert at[2].gradients == at[3].gradients < at[1].gradients
    assert at[3].frozen + at[3].trained < (at[2].frozen + at[2].trained) / 10


def test_frozen_weights_are_exact_where_zero_leaves_them_so(at: Mapping[int, Memory]) -> None:
    assert at[1].frozen == 16e9 + 2 * 1e7


def test_activations_are_the_same_at_every_level(at: Mapping[int, Memory]) -> None:
    for memory in at.values():
        assert memory.saved == 16e9
        assert memory.saved + memory.logits + memory.temporary == pytest.approx(4 * 4.1e9 + 0.5e9)


def test_the_total_is_the_sum_of_the_parts(at: Mapping[int, Memory]) -> None:
    assert at[1].total == pytest.approx(sum(vars(at[1]).values()))


def test_a_small_batch_peaks_at_another_moment(
    weights: Weights, round_costs: Mapping[bool, StepCost], nano: TrainRecipe
) -> None:
    memory = memory_of(weights, round_costs[False], nano, 1, 1, WORKERS)
    assert memory.saved + memory.logits + memory.temporary == pytest.approx(4.6e9)
    step = memory_of(weights, round_costs[True], nano, 1, 1, workers=2)  # copies of the optimizer's step exceed it
    assert step.saved + step.logits + step.temporary == pytest.approx(3 * 4e9 / 2)


def test_gradients_added_up_in_float32_are_kept_beside_the_others(weights: Weights) -> None:
    settings = {"accumulation": 4, "communication": 4}
    assert Sharding(zero=1, **settings).gradients(weights, element=2, share=1.0) == 6e9
    assert Sharding(zero=2, **settings).gradients(weights, element=2, share=1e9 / 16) == 4e9 / 16
    assert Sharding(zero=1, **settings).gradients(weights, element=4, share=1.0) == 4e9


def test_a_second_bucket_fills_while_the_first_is_sent(weights: Weights) -> None:
    sharding = Sharding(zero=2, accumulation=2, communication=2, bucket=10**8)
    assert sharding.buffers(weights, element=2) == 2e8
    assert replace(sharding, overlap=True).buffers(weights, element=2) == 4e8
    assert replace(sharding, zero=3, gathered=10**9).buffers(weights, element=2) == 2e8 + 2e9


def test_without_zero_every_worker_holds_all(weights: Weights, round_costs: Mapping[bool, StepCost]) -> None:
    recipe = read_recipe(["--stage", "3", "--config", "nano"])
    memory = memory_of(weights, round_costs[False], recipe, 0, 4, WORKERS)
    assert memory.moments == 8e9 and memory.masters == 0 and memory.buckets == 0
    assert memory.averages == 4e9  # nano keeps averages


def test_muon_keeps_one_number_for_each_weight_of_a_matrix() -> None:
    recipe = read_recipe(["--stage", "3", "--config", "nano"])
    module = build_on_meta(recipe)
    counted = weights_of(module, recipe)
    assert counted.trained < counted.moments < 1.2 * counted.trained
    adamw = replace(recipe, optimizer=replace(recipe.optimizer, muon_lr=None))
    assert weights_of(module, adamw).moments == 2 * counted.trained
    assert counted.frozen + counted.trained == sum(parameter.numel() for parameter in module.parameters())
