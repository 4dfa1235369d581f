"""Choice of a setting that fits."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from fireedit.jobs.planning.choices import MARGIN, Choices
from fireedit.jobs.planning.instances import load_prices, parse_cluster
from fireedit.jobs.planning.memory import Weights
from fireedit.jobs.planning.step_cost import StepCost
from fireedit.jobs.training.recipe import TrainRecipe, read_recipe
from fireedit.platform.config import RecipeError


@pytest.fixture
def recipe(nano: TrainRecipe) -> TrainRecipe:
    """Steps of 256 samples in bfloat16: micro-batches of 8, two a step on 16 GPUs, without checkpointing."""
    engine = replace(nano.engine, micro_batch=8, accumulate=2, zero_stage=1)
    return replace(nano, engine=engine, workers=replace(nano.workers, count=16))


def choices_on(
    gpus: str, recipe: TrainRecipe, weights: Weights, costs: Mapping[bool, StepCost], **changes: bool
) -> Choices:
    return Choices(replace(recipe, **changes), parse_cluster(gpus, load_prices()), weights, costs)


def test_the_fastest_setting_that_fits_is_recommended(
    recipe: TrainRecipe, weights: Weights, round_costs: Mapping[bool, StepCost]
) -> None:
    best = choices_on("16xa100-80g", recipe, weights, round_costs).recommended()
    assert best is not None
    assert (best.zero, best.micro_batch, best.accumulate, best.checkpointing) == (1, 8, 2, False)
    assert best.memory.total <= 80e9 * (1 - MARGIN)


def test_a_smaller_gpu_gets_a_smaller_micro_batch_before_it_gets_checkpointing(
    recipe: TrainRecipe, weights: Weights, round_costs: Mapping[bool, StepCost]
) -> None:
    best = choices_on("16xa100-40g", recipe, weights, round_costs).recommended()
    assert best is not None
    assert (best.micro_batch, best.accumulate, best.checkpointing) == (2, 8, False)


def test_more_gpus_take_fewer_micro_batches_each(
    recipe: TrainRecipe, weights: Weights, round_costs: Mapping[bool, StepCost]
) -> None:
    assert choices_on("32xa100-80g", recipe, weights, round_costs).own().accumulate == 1


def test_what_does_not_fit_is_refused_with_what_would(
    recipe: TrainRecipe, weights: Weights, round_costs: Mapping[bool, StepCost]
) -> None:
    choices = choices_on("16xa100-40g", recipe, weights, round_costs)
    sentence = choices.refusal(choices.own())
    assert sentence is not None
    assert sentence.startswith("micro-batch 8 without gradient checkpointing takes 5")
    assert "of 40 on a100-40g" in sentence
    assert "write engine.zero_stage=1 engine.micro_batch=2 engine.accumulate=8 gradient_checkpointing=false" in sentence


def test_what_fits_is_not_refused(recipe: TrainRecipe, weights: Weights, round_costs: Mapping[bool, StepCost]) -> None:
    choices = choices_on("16xa100-40g", recipe, weights, round_costs, gradient_checkpointing=True)
    assert choices.refusal(choices.own()) is None


def test_a_model_that_fits_nowhere_asks_for_another_gpu(
    recipe: TrainRecipe, weights: Weights, round_costs: Mapping[bool, StepCost]
) -> None:
    choices = choices_on("16xl40s", recipe, replace(weights, frozen=10**12), round_costs)
    assert choices.recommended() is None
    assert "write GPUs with more memory" in (choices.refusal(choices.own()) or "")


def test_samples_that_do_not_divide_among_the_gpus_are_an_error(
    recipe: TrainRecipe, weights: Weights, round_costs: Mapping[bool, StepCost]
) -> None:
    with pytest.raises(RecipeError, match="256 samples a step do not divide among 24 GPUs"):
        choices_on("24xh100", recipe, weights, round_costs)
    with pytest.raises(RecipeError, match="write a number that divides 4"):
        choices_on("64xh100", recipe, weights, round_costs).own()


def test_a_recipe_without_zero_has_no_levels(weights: Weights, round_costs: Mapping[bool, StepCost]) -> None:
    whole = read_recipe(["--stage", "3", "--config", "nano"])
    assert {choice.zero for choice in choices_on("2xh200", whole, weights, round_costs).all()} == {0}
