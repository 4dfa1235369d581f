"""Costs of a step: nano's, measured once, and round numbers for arithmetic."""

from collections.abc import Mapping

import pytest

from fireedit.jobs.planning.memory import Weights
from fireedit.jobs.planning.meter import LiveBytes
from fireedit.jobs.planning.step_cost import StepCost, measure_step
from fireedit.jobs.training.recipe import TrainRecipe, read_recipe

NANO = ("--stage", "3", "--config", "nano", "optimizer.muon_lr=null", "ema=0", "engine.zero_stage=1", "steps=1000")
"""Nano's stage 3 with the paper's optimizer, which ZeRO can shard."""


@pytest.fixture(scope="session")
def nano() -> TrainRecipe:
    return read_recipe([*NANO, "engine.precision=bf16"])


@pytest.fixture(scope="session")
def nano_costs() -> Mapping[bool, StepCost]:
    """Costs of nano's step in float32 by gradient checkpointing."""
    recipe = read_recipe([*NANO, "engine.precision=fp32"])
    return {checkpointing: measure_step(recipe, checkpointing) for checkpointing in (False, True)}


@pytest.fixture
def weights() -> Weights:
    """A model of 1e9 trained weights under AdamW and 8e9 frozen ones."""
    return Weights(trained=10**9, frozen=8 * 10**9, exact=10**7, small=10**7, moments=2 * 10**9)


def grows(gb: float, fixed_gb: float = 0.0) -> LiveBytes:
    """Make bytes that grow by so many GB a sample."""
    live = LiveBytes(1)
    live.fixed, live.growing = int(fixed_gb * 1e9), int(gb * 1e9)
    return live


@pytest.fixture
def round_costs() -> Mapping[bool, StepCost]:
    """Costs of 20 and 25 TFLOP a sample that save 4 and 0.5 GB of it."""
    flops = {("forward", "vae"): 2e12, ("forward", "unet"): 10e12, ("backward", "unet"): 8e12}
    more = {**flops, ("backward", "unet"): 13e12}
    return {
        False: StepCost(470, flops, grows(4.0), grows(0.01), (grows(4.1, fixed_gb=0.5), grows(1.0, fixed_gb=2.0))),
        True: StepCost(470, more, grows(0.5), grows(0.01), (grows(0.6, fixed_gb=0.5),)),
    }
