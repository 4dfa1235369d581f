"""Memory of one GPU by part: weights, gradients and optimizer state as DeepSpeed's ZeRO shards them, and activations.

| ZeRO | weights | gradients                        | masters, moments | while it reduces               |
|------|---------|----------------------------------|------------------|--------------------------------|
| none | whole   | whole                            | whole            | -                              |
| 1    | whole   | whole; added up in float32: both | a share          | a bucket or two, but in float32|
| 2    | whole   | a share                          | a share          | a bucket or two                |
| 3    | a share | a share                          | a share          | a bucket; weights gathered     |

Found by reading DeepSpeed 0.19 and by listing every tensor of two workers (benchmarks/plan.py does it again).
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from fireedit.jobs.planning.step_cost import StepCost
from fireedit.jobs.training.recipe import TrainRecipe
from fireedit.models.stages import StagedFireEdit
from fireedit.platform.train.optimizer import Muon, build_optimizers, named_trained
from fireedit.platform.train.sharded import deepspeed_config

FLOAT32 = 4
BYTES = {"fp32": 4, "bf16": 2}
UPDATE_COPIES = 3
"""Float32 copies of a worker's share of the trained weights that an optimizer step makes for a moment."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Elements of a module's parameters."""

    trained: int
    frozen: int
    exact: int
    """Frozen ones that stay in float32, whole on every worker."""
    small: int
    """Elements that ZeRO 3 does not shard, being in tensors below its threshold."""
    moments: int
    """Numbers that the optimizer keeps: two for each weight that AdamW trains, one that Muon trains."""


@dataclass(frozen=True, kw_only=True)
class Sharding:
    """Settings of DeepSpeed that decide what a worker holds; `zero` is 0 where every worker holds all."""

    zero: int
    accumulation: int
    """Bytes of an element of the gradients that micro-batches add up to."""
    communication: int
    """Bytes of an element of the gradients as they are sent."""
    bucket: int = 500_000_000
    """Elements of a bucket of gradients."""
    overlap: bool = False
    """True if a second bucket fills while the first is sent."""
    small: int = 100_000
    """Elements below which ZeRO 3 leaves a tensor whole."""
    gathered: int = 1_000_000_000
    """Elements that ZeRO 3 gathers at most."""

    @classmethod
    def of(cls, recipe: TrainRecipe, zero: int | None) -> "Sharding":
        """Read the settings of a recipe's engine at a level of ZeRO; 0 or None is without DeepSpeed."""
        if not zero:
            return cls(zero=0, accumulation=FLOAT32, communication=FLOAT32)
        level: Any = zero
        settings = deepspeed_config(replace(recipe.engine, zero_stage=level), torch.device("cuda"))
        own = settings["zero_optimization"]
        names = {
            "bucket": "reduce_bucket_size",
            "overlap": "overlap_comm",
            "small": "stage3_param_persistence_threshold",
            "gathered": "stage3_max_live_parameters",
        }
        return cls(
            zero=zero,
            accumulation=BYTES[settings["data_types"]["grad_accum_dtype"]],
            communication=BYTES[settings["communication_data_type"]],
            **{field: own[name] for field, name in names.items() if own.get(name) is not None},
        )

    def gradients(self, weights: Weights, element: int, share: float) -> float:
        """Compute the bytes of the gradients that are kept between micro-batches.

        Args:
            element: bytes of an element of the weights.
            share: trained weights of a worker.
        """
        if self.zero >= 2:
            return share * self.accumulation
        return weights.trained * (element + (self.accumulation if self.adds_up_apart(element) else 0))

    def buffers(self, weights: Weights, element: int) -> float:
        """Compute the bytes of gradients on their way, and of weights that ZeRO 3 gathers."""
        if self.zero == 0 or self.adds_up_apart(element):
            return 0.0
        bucket = self.bucket * self.communication
        if self.zero < 3:
            return bucket * (2 if self.overlap else 1)
        return bucket + min(self.gathered, weights.frozen + weights.trained - weights.small) * element

    def adds_up_apart(self, element: int) -> bool:
        """Return true where DeepSpeed's optimizer of bfloat16 adds gradients up in float32, beside the module's own."""
        return self.zero == 1 and self.accumulation > element


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one GPU at the highest moment of a step."""

    frozen: float
    trained: float
    """Trained weights in the engine's precision."""
    gradients: float
    masters: float
    """Float32 copies of the trained weights."""
    moments: float
    averages: float
    """Running averages of the trained weights."""
    buckets: float
    """Buckets of gradients, and gathered weights of ZeRO 3."""
    saved: float
    """Activations that the forward pass saves."""
    logits: float
    temporary: float
    """Activations beyond these at the highest moment of a forward and backward pass, or copies of an optimizer step."""

    @property
    def total(self) -> float:
        return sum(getattr(self, field.name) for field in fields(self))


def weights_of(module: StagedFireEdit, recipe: TrainRecipe) -> Weights:
    """Count the parameters of a module."""
    small = Sharding.of(recipe, 3).small if recipe.engine.zero_stage else 0
    sizes = [(each.numel(), each.requires_grad) for each in module.parameters()]
    left_out = [each.numel() for part in module.exact for each in part.parameters()]
    exact_small = sum(size for size in left_out if size <= small)
    return Weights(
        trained=sum(size for size, learns in sizes if learns),
        frozen=sum(size for size, learns in sizes if not learns),
        exact=sum(left_out),
        small=sum(size for size, _ in sizes if size <= small) - exact_small,
        moments=sum(
            (1 if isinstance(optimizer, Muon) else 2) * sum(each.numel() for each in group["params"])
            for optimizer in build_optimizers(named_trained(module), recipe.optimizer)
            for group in optimizer.param_groups
        ),
    )


def memory_of(
    weights: Weights, cost: StepCost, recipe: TrainRecipe, zero: int, micro_batch: int, workers: int
) -> Memory:
    """Compute the memory of a worker's GPU.

    Args:
        cost: of a step with or without gradient checkpointing.
        zero: level of ZeRO; 0 for an engine that shards nothing.
        workers: number of workers that share the state.
    """
    sharding, element = Sharding.of(recipe, zero), BYTES[recipe.engine.precision]
    share = weights.trained / workers if zero else weights.trained
    saved, logits, peak = cost.saved.of(micro_batch), cost.logits.of(micro_batch), cost.peak(micro_batch)
    highest = max(peak, saved + logits, UPDATE_COPIES * FLOAT32 * share)
    return Memory(
        **_weights(weights, sharding, element, workers),
        gradients=sharding.gradients(weights, element, share),
        masters=FLOAT32 * share if zero or element < FLOAT32 else 0,
        moments=FLOAT32 * weights.moments / (workers if zero else 1),
        averages=FLOAT32 * share if recipe.ema else 0,
        buckets=sharding.buffers(weights, element),
        saved=saved,
        logits=logits,
        temporary=highest - saved - logits,
    )


def _weights(weights: Weights, sharding: Sharding, element: int, workers: int) -> Mapping[str, Any]:
    exact, frozen = weights.exact * FLOAT32, weights.frozen - weights.exact
    if sharding.zero < 3:
        return {"frozen": frozen * element + exact, "trained": weights.trained * element}
    every = frozen + weights.trained
    kept = (every / workers + weights.small) * element  # small ones are whole beside their shards
    return {"frozen": kept * frozen / every + exact, "trained": kept * weights.trained / every}
