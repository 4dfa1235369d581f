"""A step of each stage is measured, the goal's first."""

from typing import Any

import pytest
import torch

from fireedit.benchmarks.speed import training
from fireedit.benchmarks.speed.training import Step, measure_in_process, steps_to_measure
from fireedit.jobs.planning.step_cost import StepCost


def test_stages_are_measured_with_zero_1_and_2() -> None:
    steps = steps_to_measure(tiny=False)
    assert [(step.stage, step.zero) for step in steps] == [(3, 1), (3, 2), (2, 1), (2, 2)]
    assert [(step.stage, step.zero) for step in steps_to_measure(tiny=True)] == [(3, 1), (2, 2)]
    recipe = steps[0].recipe
    assert (recipe.name, recipe.engine.precision, recipe.engine.micro_batch) == ("paper-stage3", "bf16", 8)
    assert recipe.workers.count == 1 and recipe.engine.accumulate == 1


def test_a_step_without_deepspeed_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    flops: Any = {("forward", "unet"): 1e9, ("backward", "unet"): 2e9, ("forward", "vlm"): 1e9, ("forward", "vae"): 1e9}
    monkeypatch.setattr(training, "measure_step", lambda *_, **__: StepCost(1, flops, None, None, ()))  # type: ignore[arg-type]
    training.flops_of.cache_clear()
    rows = list[dict[str, Any]]()
    measure_in_process([Step(3, None, True, 1)], torch.device("cpu"), rows.append)
    training.flops_of.cache_clear()
    (row,) = rows
    assert row["samples_per_s"] == pytest.approx(1 / row["step_s"])
    assert row["llm_unet_flops_per_s"] == pytest.approx(4e9 / row["step_s"])
    assert row["flops_per_s"] == pytest.approx(5e9 / row["step_s"]) and row["peak_gib"] is None
