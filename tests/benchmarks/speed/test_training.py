"""An optimizer step is measured."""

from typing import Any

import pytest
import torch

from fireedit.benchmarks.speed import training
from fireedit.benchmarks.speed.training import Step, measure
from fireedit.jobs.planning.step_cost import StepCost
from fireedit.platform.train.session import process_group


def test_a_step_is_of_the_papers_recipe() -> None:
    recipe = Step(3, 1, False, 8).recipe
    assert (recipe.name, recipe.engine.precision, recipe.engine.micro_batch) == ("paper-stage3", "bf16", 8)
    assert recipe.workers.count == 1 and recipe.engine.accumulate == 1 and recipe.engine.zero_stage == 1


def test_a_step_without_deepspeed_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    flops: Any = {("forward", "unet"): 1e9, ("backward", "unet"): 2e9, ("forward", "vlm"): 1e9, ("forward", "vae"): 1e9}
    monkeypatch.setattr(training, "measure_step", lambda *_, **__: StepCost(1, flops, None, None, ()))  # type: ignore[arg-type]
    training.flops_of.cache_clear()
    with process_group(gpus=False):
        row = measure(Step(3, None, True, 1), torch.device("cpu"))
    training.flops_of.cache_clear()
    assert row["samples_per_s"] == pytest.approx(1 / row["step_s"])
    assert row["llm_unet_flops_per_s"] == pytest.approx(4e9 / row["step_s"])
    assert row["flops_per_s"] == pytest.approx(5e9 / row["step_s"]) and row["peak_gib"] is None
