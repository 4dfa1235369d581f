"""AdamW and its learning rate over time."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import nn


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    lr: PositiveFloat
    weight_decay: NonNegativeFloat = 0.0
    warmup_ratio: NonNegativeFloat = 0.0
    """Share of all steps in which the learning rate climbs linearly from 0; then it stays."""
    cooldown_ratio: NonNegativeFloat = 0.0
    """Share of all steps, at the end, in which it falls linearly to 0; with more `steps` it climbs back and goes on."""
    betas: tuple[float, float] = (0.9, 0.999)
    lr_scale: Mapping[str, float] = field(default_factory=dict)
    """Beginnings of parameter names whose learning rate is multiplied by this; the longest that fits counts."""


def build_optimizer(parameters: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig) -> torch.optim.AdamW:
    """One parameter group for each learning rate.

    Raises:
        ValueError: an entry of `lr_scale` fits no parameter.
    """
    groups: dict[float, list[nn.Parameter]] = {}
    unused = set(config.lr_scale)
    for name, parameter in parameters:
        fitting = [beginning for beginning in config.lr_scale if name.startswith(beginning)]
        unused -= set(fitting)
        scale = config.lr_scale[max(fitting, key=len)] if fitting else 1.0
        groups.setdefault(scale, []).append(parameter)
    if unused:
        raise ValueError(f"optimizer.lr_scale: no trained parameter begins with {sorted(unused)[0]!r}")
    return torch.optim.AdamW(
        [{"params": members, "lr": config.lr * scale} for scale, members in groups.items()],
        betas=config.betas,
        weight_decay=config.weight_decay,
    )


def learning_rate_over(steps: int, config: OptimizerConfig) -> Callable[[int], float]:
    """What to multiply the learning rate with at a step counted from 0."""
    climb, fall = round(config.warmup_ratio * steps), round(config.cooldown_ratio * steps)
    return lambda step: min(1.0, (step + 1) / (climb + 1), (steps - step) / fall if fall else 1.0)
