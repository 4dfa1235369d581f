"""Cost of one forward and backward pass of a recipe's model, measured on fake tensors."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fireedit.jobs.planning.example_batch import TEXT_TOKENS, example_batch
from fireedit.jobs.planning.meter import LiveBytes, Meter, Phase
from fireedit.jobs.planning.most_regions import propose_most_regions
from fireedit.jobs.training.recipe import TrainRecipe
from fireedit.models.layers.component import DTYPES
from fireedit.models.model import FireEdit
from fireedit.models.processor import Batch
from fireedit.models.stages import StagedFireEdit

PRIMES = (7, 5, 3)
"""Batch sizes to measure at. Pooling of regions takes images eight at a time, so that no prime above 8 grows evenly."""


@dataclass(frozen=True)
class StepCost:
    """FLOPs and activations of a forward and backward pass, gradients of the weights apart."""

    tokens: int
    """Length of a prompt, image and regions included."""
    flops: Mapping[tuple[Phase, str], float]
    """FLOPs a sample by phase and part; recomputation counts as backward."""
    saved: LiveBytes
    """Tensors saved for the backward pass, logits apart."""
    logits: LiveBytes
    peaks: tuple[LiveBytes, ...]
    """Live bytes at the moments one of which is the highest, whatever the batch."""

    def total(self, phase: Phase) -> float:
        """FLOPs a sample of all parts."""
        return sum(count for (counted, _), count in self.flops.items() if counted == phase)

    def peak(self, samples: int) -> float:
        """Bytes of activations at their highest on a batch of any size."""
        return max(moment.of(samples) for moment in self.peaks)


def measure_step(recipe: TrainRecipe, checkpointing: bool, text_tokens: int = TEXT_TOKENS) -> StepCost:
    """Measure a step on a batch of a few samples; some seconds on a CPU at the paper's size."""
    module = build_on_meta(replace(recipe, gradient_checkpointing=checkpointing))
    samples = _prime(module)
    batch, meter = example_batch(recipe, samples, text_tokens), Meter(samples)
    for name, part in module.model.named_children():
        meter.follow(name, (part, *part.children()))
    if module.model.detector is not None:
        propose_most_regions(module.model.detector)
    with meter.fake_mode:
        module.to_empty(device="cpu")
    batch = _fake_pictures(batch, meter.fake_mode)
    meter.ignore([*module.parameters(), *module.buffers(), *_tensors(batch).values()])
    with meter:
        with meter.saving(vocabulary=recipe.model.vlm.vocab_size):
            total = module(batch).total
        meter.phase = "backward"
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(_drop_gradient)
        total.backward()
    flops = {key: count / samples for key, count in meter.flops.items()}
    return StepCost(_tokens(recipe, batch), flops, meter.saved, meter.logits, _highest(meter))


def build_on_meta(recipe: TrainRecipe) -> StagedFireEdit:
    """Build the module that a recipe trains, in its precision, without memory for the weights."""
    with torch.device("meta"):
        model = FireEdit.from_config(recipe.model)
    module = recipe.staged(model)
    module.to(DTYPES[recipe.engine.precision])
    for part in module.exact:
        part.float()
    return module


def _prime(module: nn.Module) -> int:
    """Choose the number of samples that divides the sizes of the fewest trained weights, at best of none."""

    def shared(prime: int) -> int:
        return sum(each.numel() for each in module.parameters() if each.requires_grad and each.numel() % prime == 0)

    return min(PRIMES, key=shared)


def _fake_pictures(batch: Batch, mode: FakeTensorMode) -> Batch:
    """Make pictures and encodings fake; ids and masks keep their values."""
    large = {name: value for name, value in _tensors(batch).items() if value.dtype in (torch.uint8, torch.float16)}
    fake: dict[str, Any] = {name: mode.from_tensor(value) for name, value in large.items()}
    return replace(batch, **fake)


def _tensors(batch: Batch) -> dict[str, Tensor]:
    return {name: value for name, value in vars(batch).items() if isinstance(value, Tensor)}


def _tokens(recipe: TrainRecipe, batch: Batch) -> int:
    """Length of a prompt once image and regions are inserted."""
    text = batch.input_ids.shape[1]
    if recipe.stage == 1:
        return text
    patches = (recipe.model.vision.image_size // recipe.model.vision.patch_size) ** 2
    regions = 0 if "regions" in recipe.without else recipe.model.detector.proposals.max_regions
    return text + patches // 4 + regions


def _highest(meter: Meter) -> tuple[LiveBytes, ...]:
    """Keep the moments that no other exceeds both in fixed and in growing bytes."""
    highest, most = list[LiveBytes](), -1
    for fixed, growing in sorted(set(meter.history), reverse=True):
        if growing > most:
            moment, most = LiveBytes(meter.live.samples), growing
            moment.fixed, moment.growing = fixed, growing
            highest.append(moment)
    return tuple(highest)


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None
