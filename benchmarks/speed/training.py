"""One optimizer step of stages 2 and 3 with random weights, on one worker of Ray Train or in this process."""

import functools
import gc
import importlib.util
import json
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from fireedit.benchmarks.speed.card import peak_gib, restart_peak, seconds_of
from fireedit.jobs.planning.example_batch import example_batch
from fireedit.jobs.planning.most_regions import propose_most_regions
from fireedit.jobs.planning.step_cost import measure_step
from fireedit.jobs.training.loading import DTYPES, place
from fireedit.jobs.training.recipe import TrainRecipe, read_recipe
from fireedit.models.model import FireEdit
from fireedit.models.processor import Batch
from fireedit.models.stages import STAGES
from fireedit.platform.cluster import start_ray
from fireedit.platform.train.engine import Engine, build_engine
from fireedit.platform.train.launcher import RaySession, launch
from fireedit.platform.train.runs import Run
from fireedit.platform.train.session import process_group
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


def steps_to_measure(tiny: bool) -> list[Step]:
    """List the steps, the goal's first; tiny ones are fewer."""
    levels: tuple[int | None, ...] = (1, 2) if importlib.util.find_spec("deepspeed") else (None,)
    steps = [Step(stage, zero, tiny, 2 if tiny else 8) for stage in (3, 2) for zero in levels]
    return [steps[0], steps[-1]] if tiny else steps


def measure_in_process(steps: list[Step], device: torch.device, write: Callable[[dict[str, Any]], None]) -> None:
    """Measure steps in this process; `write` gets the figures of each once it is done."""
    with process_group(gpus=device.type == "cuda"):
        for step in steps:
            write(measure(step, device))


def measure_on_ray(steps: list[Step], device: torch.device, write: Callable[[dict[str, Any]], None]) -> None:
    """Measure steps on one worker of Ray Train; figures arrive when it ends, those done before an error too."""
    start_ray()
    with tempfile.TemporaryDirectory() as folder:
        rows, gpus = Path(folder) / "rows.jsonl", int(device.type == "cuda")
        workers = WorkersConfig(count=1, cpus=1, gpus=gpus, max_failures=0)
        config = {"steps": [asdict(step) for step in steps], "rows": str(rows), "device": device.type}
        try:
            launch(_loop, config, workers, Run(folder, "steps"), keep=1, passes=1)
        finally:
            for line in rows.read_text().splitlines() if rows.exists() else ():
                write(json.loads(line))


def _loop(session: RaySession, config: dict[str, Any]) -> None:
    for step in config["steps"]:
        row = measure(Step(**step), torch.device(config["device"]))
        with open(config["rows"], "a") as file:
            file.write(json.dumps(row) + "\n")


def measure(step: Step, device: torch.device) -> dict[str, Any]:
    """Measure samples a second, operations a second and peak memory of a step, after a few that warm up."""
    flops = flops_of(step.stage, step.tiny)
    gc.collect()  # the engine of the step before
    restart_peak(device)
    engine, batch = _begin(step, device)

    def optimize() -> None:
        engine.step(engine.model(batch).total, done=0.5)

    for _ in range(WARM_UP):
        optimize()
    seconds = seconds_of(optimize, device, STEPS)
    return {
        "stage": step.stage,
        "zero": step.zero,
        "samples": step.micro_batch,
        "step_s": seconds,
        "samples_per_s": step.micro_batch / seconds,
        "flops_per_s": sum(flops.values()) * step.micro_batch / seconds,
        "llm_unet_flops_per_s": sum(flops[part] for part in COUNTED) * step.micro_batch / seconds,
        "peak_gib": peak_gib(device),
    }


def _begin(step: Step, device: torch.device) -> tuple[Engine, Batch]:
    """Build the engine of fresh weights, drawn on the device, and a batch of prompts with the most regions."""
    recipe = step.recipe
    precision = DTYPES[recipe.engine.precision]
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
