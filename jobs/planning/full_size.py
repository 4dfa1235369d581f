"""Parts of the network run at full size on random weights: an edit stage by stage, then a step of each training stage.

A part hands its outputs to the next in files, so that each can run in a process of its own, and the machine holds one
part at a time.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fireedit.jobs.planning.example_batch import example_batch
from fireedit.jobs.planning.layers_in_float32 import compute_in_float32
from fireedit.jobs.planning.step_cost import measure_step
from fireedit.jobs.training.recipe import TrainRecipe, read_recipe
from fireedit.models.layers.component import DTYPES
from fireedit.models.model import FireEditConfig, Percepts, preset
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.stages import STAGES
from fireedit.platform.processes import peak_bytes
from fireedit.platform.train.optimizer import named_trained

SEED = 0
PROMPT = "Make the sky red, and remove the second person from the left."
PERCEPTS, TOKENS = "perceive.pt", "understand.pt"
"""Files that parts hand to later ones, called like the part."""
CPU_LAYERS = 4
"""Layers of the LLM in training steps on a CPU."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Sizes to run, and where."""

    config: str
    """`paper` or `nano`."""
    device: str
    folder: Path
    """Folder of what parts hand on."""
    steps: int = 2
    """Denoising steps."""
    in_float32: bool = False
    """Compute in float32, as a CPU without instructions for bfloat16 must; else in bfloat16, but for the detector."""

    @property
    def sizes(self) -> FireEditConfig:
        return preset(self.config)


@dataclass(frozen=True, kw_only=True)
class Ran:
    """Outcome of a part."""

    part: str
    parameters: Mapping[str, int]
    """Parameters of each component."""
    dtypes: Mapping[str, str]
    """Precision of each component's weights."""
    outputs: Mapping[str, list[int]]
    """Shape of each output."""
    finite: bool
    """True if all outputs, and gradients of a training step, are numbers."""
    build_s: float
    run_s: float
    peak_bytes: int
    """Highest memory of the process; on cuda, of the device."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """Losses of a training step, the bytes that it took beside the weights, and those that jobs/plan.py foretells."""


def run_part(part: str, trial: Trial) -> Ran:
    """Build a part with fresh weights, and run it.

    Raises:
        RuntimeError: a part whose output it reads did not run; or the device has too little memory, among others.
    """
    if absent := [name for name in READ.get(part, ()) if not (trial.folder / name).is_file()]:
        before = absent[0].removesuffix(".pt")
        raise RuntimeError(f"it reads what {before} hands on, which did not run; write {before} before it in --parts")
    if trial.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(trial.device)
    if part.startswith("stage"):
        return _train(part, trial)
    names, run = EDITING[part]
    began = time.monotonic()
    pipeline = _fresh(trial, names)
    built = time.monotonic()
    with torch.no_grad():
        outputs = run(pipeline, trial)
    _wait(trial)
    components = {name: module for name in names if isinstance(module := getattr(pipeline, name), nn.Module)}
    return _ran(part, trial, components, outputs, built - began, time.monotonic() - built, {})


def _fresh(trial: Trial, parts: tuple[str, ...]) -> FireEditPipeline:
    pipeline = FireEditPipeline.fresh(SEED, trial.sizes, dtype=torch.bfloat16, parts=parts, device=trial.device)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.sources_elsewhere = trial.sizes.hvca.sources
    if trial.in_float32:
        for name in parts:
            if isinstance(module := getattr(pipeline, name), nn.Module):
                compute_in_float32(module)
    return pipeline


def _perceive(pipeline: FireEditPipeline, trial: Trial) -> dict[str, Tensor]:
    percepts = pipeline.perceive([_picture(trial)])
    torch.save(percepts.to("cpu").__dict__, trial.folder / PERCEPTS)
    named = {"image_tokens": percepts.image_tokens, "region_tokens": percepts.region_tokens[0]}
    return named | {"boxes": percepts.boxes[0]} | {f"detail_{i}": each for i, each in enumerate(percepts.detail)}


def _understand(pipeline: FireEditPipeline, trial: Trial) -> dict[str, Tensor]:
    edit_tokens = pipeline.understand(_percepts(trial), [PROMPT])
    torch.save(edit_tokens.cpu(), trial.folder / TOKENS)
    return {"edit_tokens": edit_tokens}


def _paint(pipeline: FireEditPipeline, trial: Trial) -> dict[str, Tensor]:
    edit_tokens = _handed(trial, TOKENS).to(trial.device)
    settings = trial.sizes.painting.but(num_inference_steps=trial.steps)
    canvases, noise = [_picture(trial)], [torch.Generator().manual_seed(SEED)]
    state = pipeline.prepare(canvases, _percepts(trial).to(trial.device), edit_tokens, settings, noise)
    latents = pipeline.paint(state)
    return {"latents": latents, "picture": torch.from_numpy(pipeline.decode(latents))}


EDITING: Mapping[str, tuple[tuple[str, ...], Callable[[FireEditPipeline, Trial], dict[str, Tensor]]]] = {
    "perceive": (FireEditPipeline.PERCEIVING, _perceive),
    "understand": (FireEditPipeline.UNDERSTANDING, _understand),
    "paint": (FireEditPipeline.PAINTING, _paint),
}
"""Components and function of each part of an edit."""
READ: Mapping[str, tuple[str, ...]] = {"understand": (PERCEPTS,), "paint": (PERCEPTS, TOKENS)}
"""Files that parts read of those before them."""
PARTS = (*EDITING, "stage1", "stage2", "stage3")


def _train(part: str, trial: Trial) -> Ran:
    """Run forward and backward of a stage on one sample, the LLM cut on a CPU."""
    changes = ["init_from=fresh", f"engine.precision={'fp32' if trial.in_float32 else 'bf16'}"]
    changes += [f"model.vlm.layers={min(CPU_LAYERS, trial.sizes.vlm.layers)}"] if trial.device == "cpu" else []
    recipe = read_recipe(["--stage", part.removeprefix("stage"), "--config", trial.config, *changes])
    recipe, dtype = replace(recipe, compile=()), DTYPES[recipe.engine.precision]
    began, before = time.monotonic(), _peak_bytes(trial)
    parts = STAGES[recipe.stage].without(recipe.without).parts
    pipeline = FireEditPipeline.fresh(SEED, recipe.model, dtype=dtype, parts=parts, device=trial.device)
    module = recipe.staged(pipeline)
    built = time.monotonic()
    losses = module(example_batch(recipe, 1).to(trial.device))
    losses.total.backward()
    _wait(trial)
    seconds = time.monotonic() - built
    outputs = {"edit_losses": losses.each}
    trained = dict(named_trained(module))
    without = [name for name, parameter in trained.items() if parameter.grad is None]
    gradients = [parameter.grad for parameter in trained.values() if parameter.grad is not None]
    finite = not without and all(bool(gradient.isfinite().all()) for gradient in gradients)
    weights = sum(parameter.nbytes for parameter in module.parameters())
    figures = {name: value.item() for name, value in losses.named()}
    figures |= {"step_bytes": _peak_bytes(trial) - before - weights}
    ran = _ran(part, trial, dict(module.model.named_children()), outputs, built - began, seconds, figures)
    planned = sum(gradient.nbytes for gradient in gradients) + _activations(recipe)
    return replace(ran, finite=ran.finite and finite, figures={**figures, "planned_bytes": planned})


def _activations(recipe: TrainRecipe) -> float:
    """Foretell the bytes of activations of a step on one sample, as jobs/plan.py does."""
    return measure_step(recipe, recipe.gradient_checkpointing).peak(1)


def _ran(
    part: str,
    trial: Trial,
    components: Mapping[str, nn.Module],
    outputs: Mapping[str, Tensor],
    build_s: float,
    run_s: float,
    figures: Mapping[str, float],
) -> Ran:
    return Ran(
        part=part,
        parameters={name: sum(each.numel() for each in module.parameters()) for name, module in components.items()},
        dtypes={name: _dtype(module) for name, module in components.items()},
        outputs={name: list(output.shape) for name, output in outputs.items()},
        finite=all(bool(output.float().isfinite().all()) for output in outputs.values()),
        build_s=round(build_s, 2),
        run_s=round(run_s, 2),
        peak_bytes=_peak_bytes(trial),
        figures=figures,
    )


def _dtype(module: nn.Module) -> str:
    """Name the precision of most of a module's weights."""
    counts = Counter[torch.dtype]()
    for parameter in module.parameters():
        counts[parameter.dtype] += parameter.numel()
    return str(max(counts, key=counts.__getitem__)).removeprefix("torch.") if counts else "none"


def _percepts(trial: Trial) -> Percepts:
    return Percepts(**_handed(trial, PERCEPTS))


def _handed(trial: Trial, name: str) -> Any:
    return torch.load(trial.folder / name, weights_only=True)


def _picture(trial: Trial) -> np.ndarray:
    side = trial.sizes.vae.sample_size
    return np.random.default_rng(SEED).integers(0, 256, (side, side, 3), dtype=np.uint8)


def _wait(trial: Trial) -> None:
    if trial.device.startswith("cuda"):
        torch.cuda.synchronize(trial.device)


def _peak_bytes(trial: Trial) -> int:
    """Highest memory so far, of this process or, on cuda, of its device."""
    return torch.cuda.max_memory_allocated(trial.device) if trial.device.startswith("cuda") else peak_bytes()
