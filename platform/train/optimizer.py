"""AdamW, Muon for matrices, the learning rate over a run, and averaged weights."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from fireedit.platform.config import Decay, Ratio, nearest

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic that drives singular values toward 1. Source: Jordan et al., "Muon", 2024."""
NEWTON_SCHULZ_STEPS = 5


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    lr: PositiveFloat
    """Learning rate of AdamW."""
    weight_decay: NonNegativeFloat = 0.0
    warmup_ratio: Ratio = 0.0
    """Share of the run in which the learning rate climbs linearly from 0."""
    cooldown_ratio: Ratio = 0.0
    """Share of the run, at its end, in which the learning rate falls linearly to 0; a prolonged run climbs back."""
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    lr_scale: Mapping[str, NonNegativeFloat] = field(default_factory=dict)
    """Prefixes of parameter names to factors of their learning rates; the longest matching prefix counts."""
    muon_lr: PositiveFloat | None = None
    """Learning rate of Muon, which then trains all weights of two or more dimensions; None: AdamW trains them too."""
    adamw_only: tuple[str, ...] = ()
    """Prefixes of names of weights that Muon leaves to AdamW: embeddings, first and last layers."""

    def __post_init__(self) -> None:
        if self.warmup_ratio + self.cooldown_ratio > 1:
            raise ValueError(
                f"warmup_ratio and cooldown_ratio: found {self.warmup_ratio} and {self.cooldown_ratio}, more than the "
                "whole run; write ratios that sum to at most 1"
            )


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonalized updates; a convolution is taken as a matrix [out, in k k].

    Matrices of one shape are orthogonalized together, which on a GPU is several times faster than one by one.
    `torch.optim.Muon` takes matrices only, one at a time.
    Source: Jordan et al., "Muon", 2024; the step is scaled as in Moonlight (arXiv 2502.16982) to AdamW's size.
    """

    def __init__(self, parameters: Iterable[Any], lr: float, momentum: float = 0.95, weight_decay: float = 0.01):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure is ever passed
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            momenta = [self._momentum(parameter) for parameter in parameters]
            gradients = [parameter.grad for parameter in parameters]
            torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
            updates = torch._foreach_lerp(gradients, momenta, group["momentum"])  # Nesterov
            if group["weight_decay"]:
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            by_shape: dict[tuple[int, int], list[int]] = {}
            for index, update in enumerate(updates):
                rows = len(update)
                by_shape.setdefault((rows, update.numel() // rows), []).append(index)
            for shape, indices in by_shape.items():
                stacked = torch.stack([updates[index].reshape(shape) for index in indices])
                scale = -group["lr"] * 0.2 * max(shape) ** 0.5
                for index, update in zip(indices, orthogonalized(stacked).mul_(scale), strict=True):
                    parameters[index].add_(update.view(parameters[index].shape))

    def _momentum(self, parameter: nn.Parameter) -> Tensor:
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        return state["momentum"]


def orthogonalized(matrices: Tensor) -> Tensor:
    """Replace matrices [N, R, C] by nearly orthogonal ones of the same row and column spaces, float32.

    Computed in bfloat16 on a GPU and in float32 on a CPU, where bfloat16 products are often emulated.
    """
    x = matrices.float() / (matrices.float().flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    x = x.bfloat16() if x.is_cuda else x
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    a, b, c = NEWTON_SCHULZ
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).float()


def build_optimizers(
    parameters: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig
) -> list[torch.optim.Optimizer]:
    """Build AdamW, and Muon before it if the recipe has a rate for it; each parameter belongs to one of them.

    Raises:
        ValueError: a prefix in `lr_scale` matches no parameter.
    """
    named = list(parameters)
    names = [name for name, _ in named]
    for prefix in config.lr_scale:
        if not any(name.startswith(prefix) for name in names):
            modules = sorted({".".join(name.split(".")[: prefix.count(".") + 1]) for name in names})
            hint = nearest(prefix, modules)
            raise ValueError(f"optimizer.lr_scale: no trained parameter begins with {prefix!r}; {hint}")
    if config.muon_lr is None:
        return [_adamw(named, config)]
    matrices = [(name, parameter) for name, parameter in named if _is_muons(name, parameter, config)]
    others = [(name, parameter) for name, parameter in named if not _is_muons(name, parameter, config)]
    muon = Muon(_groups(matrices, config.muon_lr, config.lr_scale), config.muon_lr)
    return [muon, _adamw(others, config)] if others else [muon]


def _is_muons(name: str, parameter: nn.Parameter, config: OptimizerConfig) -> bool:
    return parameter.ndim >= 2 and min(parameter.shape[:2]) > 1 and not name.startswith(config.adamw_only)


def _adamw(named: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig) -> torch.optim.AdamW:
    groups = _groups(named, config.lr, config.lr_scale)
    return torch.optim.AdamW(groups, betas=config.betas, weight_decay=config.weight_decay)


def _groups(
    named: Iterable[tuple[str, nn.Parameter]], lr: float, lr_scale: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Group parameters by their learning rates."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in named:
        prefixes = [prefix for prefix in lr_scale if name.startswith(prefix)]
        scale = lr_scale[max(prefixes, key=len)] if prefixes else 1.0
        groups.setdefault(scale, []).append(parameter)
    return [{"params": members, "lr": lr * scale} for scale, members in groups.items()]


def rate_at(done: float, config: OptimizerConfig) -> float:
    """Factor in [0, 1] of the learning rate after a share `done` in [0, 1] of the run."""
    climbing = done / config.warmup_ratio if config.warmup_ratio else 1.0
    falling = (1 - done) / config.cooldown_ratio if config.cooldown_ratio else 1.0
    return max(0.0, min(1.0, climbing, falling))


class AveragedWeights:
    """Exponential moving average of parameters, float32 on their device; its first updates forget faster."""

    def __init__(self, parameters: Iterable[Tensor], decay: float):
        self.parameters, self.decay, self.updates = list(parameters), decay, 0
        self.means = [parameter.detach().float().clone() for parameter in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Move the averages toward the parameters' present values."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        torch._foreach_lerp_(self.means, [parameter.detach().float() for parameter in self.parameters], 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the parameters their averages within the block."""
        values = [parameter.detach().clone() for parameter in self.parameters]
        with torch.no_grad():
            torch._foreach_copy_(self.parameters, self.means)
            try:
                yield
            finally:
                torch._foreach_copy_(self.parameters, values)


def named_trained(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Walk the parameters that require a gradient, by name."""
    return ((name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad)
