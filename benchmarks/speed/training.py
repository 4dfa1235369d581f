"""One optimizer step of stages 2 and 3 with random weights, in this process or on one worker of Ray Train."""

import functools
import json
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from fireedit.benchmarks.speed.card import peak_gib, reserved_gib, restart_peak, seconds_of
from fireedit.jobs.planning.example_batch import example_batch
from fireedit.jobs.planning.most_regions import propose_most_regions
from fireedit.jobs.planning.step_cost import measure_step
from fireedit.jobs.training.loading import place
from fireedit.jobs.training.recipe import TrainRecipe, read_recipe
from fireedit.models.model import FireEdit
from fireedit.models.processor import Batch
from fireedit.models.stages import STAGES
from fireedit.platform.console import say
from fireedit.platform.train.engine import Engine, build_engine
from fireedit.platform.train.runs import Run
from fireedit.platform.train.workers import WorkersConfig

COUNTED = ("vlm", "unet")
"""Parts whose operations the goal's MFU counts."""
WARM_UP, STEPS = 2, 3


@dataclass(frozen=True)
class Step:
    """An optimizer step that is measured."""

    stage: int
    zero: int | None
    """ZeRO's level; None trains without DeepSpeed."""
    tiny: bool
    micro_batch: int

    @property
    def recipe(self) -> TrainRecipe:
        changes = f"engine.micro_batch={self.micro_batch} engine.accumulate=1 workers.count=1 ema=0 validate_every=null"
        zero = f"engine.zero_stage={'null' if self.zero is None else self.zero} optimizer.muon_lr=null"
        config = "nano" if self.tiny else "paper"
        denoises = "objective.denoise_weight=1" if self.tiny else ""
        words = f"{changes} {zero} {denoises} engine.precision={'fp32' if self.tiny else 'bf16'}".split()
        return read_recipe(["--stage", str(self.stage), "--config", config, *words])


def measure_on_ray(step: Step, device: torch.device) -> dict[str, Any]:
    """Measure a step on one worker of Ray Train."""
    from fireedit.platform.cluster import start_ray  # a machine without Ray measures the rest
    from fireedit.platform.train.launcher import launch

    start_ray()
    with tempfile.TemporaryDirectory() as folder:
        row = Path(folder) / "row.json"
        workers = WorkersConfig(count=1, cpus=1, gpus=int(device.type == "cuda"), max_failures=0)
        config = {"step": asdict(step), "row": str(row), "device": device.type}
        launch(_loop, config, workers, Run(folder, "step"), keep=1, passes=1)
        measured: dict[str, Any] = json.loads(row.read_text())
        return measured


def _loop(_: object, config: dict[str, Any]) -> None:
    row = measure(Step(**config["step"]), torch.device(config["device"]))
    Path(config["row"]).write_text(json.dumps(row))


def measure(step: Step, device: torch.device) -> dict[str, Any]:
    """Measure samples a second, operations a second and peak memory of a step, after a few that warm up.

    The process group of training is up.
    """
    restart_peak(device)  # also of the engine of a step before
    engine, batch = _begin(step, device)

    def optimize() -> None:
        engine.step(engine.model(batch).total, done=0.5)

    for _ in range(WARM_UP):
        optimize()
    seconds = seconds_of(optimize, device, STEPS)
    memory = {"peak_gib": peak_gib(device), "reserved_gib": reserved_gib(device)}
    say(f"  stage {step.stage}, ZeRO {step.zero}: {seconds:.4f} s a step; counting its operations")
    flops = flops_of(step.stage, step.tiny)
    return {
        "stage": step.stage,
        "zero": step.zero,
        "samples": step.micro_batch,
        "step_s": seconds,
        "samples_per_s": step.micro_batch / seconds,
        "flops_per_s": sum(flops.values()) * step.micro_batch / seconds,
        "llm_unet_flops_per_s": sum(flops[part] for part in COUNTED) * step.micro_batch / seconds,
        **memory,
    }


def _begin(step: Step, device: torch.device) -> tuple[Engine, Batch]:
    """Build the engine of fresh weights, drawn on the device, and a batch of prompts with the most regions."""
    recipe = step.recipe
    precision = torch.float32 if step.tiny else torch.bfloat16
    model: Any = FireEdit.fresh(recipe.model, recipe.seed, precision, device=device)
    place(model, STAGES[step.stage], precision, device)
    module = recipe.staged(model)
    if module.model.detector is not None:
        propose_most_regions(module.model.detector)
    engine = build_engine(module, recipe.engine, recipe.optimizer, module.exact)
    return engine, example_batch(recipe, step.micro_batch).to(device)


@functools.lru_cache
def flops_of(stage: int, tiny: bool) -> Counter[str]:
    """Count the operations of a sample by part, forward and backward, without recomputation; in some seconds."""
    counted = Counter[str]()
    for (_, part), count in measure_step(Step(stage, 1, tiny, 1).recipe, checkpointing=False).flops.items():
        counted[part] += round(count)
    return counted
