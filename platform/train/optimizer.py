"""AdamW, Muon for the matrices where a recipe asks for it, and the learning rate over a run."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic that drives singular values toward 1. Source: Jordan et al., "Muon", 2024."""
NEWTON_SCHULZ_STEPS = 5


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    lr: PositiveFloat
    """Of AdamW."""
    weight_decay: NonNegativeFloat = 0.0
    warmup_ratio: NonNegativeFloat = 0.0
    """Share of the run in which the learning rate climbs linearly from 0; then it stays."""
    cooldown_ratio: NonNegativeFloat = 0.0
    """Share of the run, at its end, in which it falls linearly to 0; a longer run climbs back and goes on."""
    betas: tuple[float, float] = (0.9, 0.999)
    lr_scale: Mapping[str, float] = field(default_factory=dict)
    """Beginnings of parameter names whose learning rate is multiplied by this; the longest that fits counts."""
    muon_lr: PositiveFloat | None = None
    """Learning rate of Muon, which then trains all weights of two or more dimensions; None: AdamW trains them too."""
    adamw_only: tuple[str, ...] = ()
    """Beginnings of names of weights that Muon leaves to AdamW: embeddings, first and last layers."""


class Muon(torch.optim.Optimizer):
    """Momentum whose matrices are made orthogonal before they are applied; a convolution is a matrix [out, in k k].

    Matrices of one shape are orthogonalized together, which on a GPU is several times faster than one by one.
    `torch.optim.Muon` takes matrices only and goes through them singly.
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
                made = orthogonalized(stacked).mul_(scale)
                for index, one in zip(indices, made, strict=True):
                    parameters[index].add_(one.view(parameters[index].shape))

    def _momentum(self, parameter: nn.Parameter) -> Tensor:
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        return state["momentum"]


def orthogonalized(matrices: Tensor) -> Tensor:
    """[N, R, C] matrices to nearly orthogonal ones of the same row and column spaces, float32.

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
    """AdamW, and Muon before it if the recipe gives it a learning rate; each parameter belongs to one of them.

    Raises:
        ValueError: an entry of `lr_scale` fits no parameter.
    """
    named = list(parameters)
    for beginning in sorted(config.lr_scale):
        if not any(name.startswith(beginning) for name, _ in named):
            raise ValueError(f"optimizer.lr_scale: no trained parameter begins with {beginning!r}")
    if config.muon_lr is None:
        return [_adamw(named, config)]

    def is_matrix(name: str, parameter: nn.Parameter) -> bool:
        left_out = any(name.startswith(beginning) for beginning in config.adamw_only)
        return parameter.ndim >= 2 and min(parameter.shape[:2]) > 1 and not left_out

    matrices = [(name, parameter) for name, parameter in named if is_matrix(name, parameter)]
    others = [(name, parameter) for name, parameter in named if not is_matrix(name, parameter)]
    muon = Muon(_groups(matrices, config.muon_lr, config.lr_scale), config.muon_lr)
    return [muon, _adamw(others, config)] if others else [muon]


def _adamw(named: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig) -> torch.optim.AdamW:
    groups = _groups(named, config.lr, config.lr_scale)
    return torch.optim.AdamW(groups, betas=config.betas, weight_decay=config.weight_decay)


def _groups(
    named: Iterable[tuple[str, nn.Parameter]], lr: float, lr_scale: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Parameters by their learning rates."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in named:
        fitting = [beginning for beginning in lr_scale if name.startswith(beginning)]
        scale = lr_scale[max(fitting, key=len)] if fitting else 1.0
        groups.setdefault(scale, []).append(parameter)
    return [{"params": members, "lr": lr * scale} for scale, members in groups.items()]


class ClippedTogether(torch.optim.Optimizer):
    """Several optimizers as one, which first clip the gradients of all their parameters.

    Args:
        parts: no parameter is in two of them.
        clip: largest norm of the gradient.
    """

    def __init__(self, parts: Sequence[torch.optim.Optimizer], clip: float):
        super().__init__([group for part in parts for group in part.param_groups], {})
        self.parts, self.clip = list(parts), clip
        self._global_grad_norm: Tensor | None = None  # where DeepSpeed looks for it

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure is ever passed
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        self._global_grad_norm = nn.utils.clip_grad_norm_(parameters, self.clip)
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def rate_at(done: float, config: OptimizerConfig) -> float:
    """What to multiply the learning rate with where a share `done` in [0, 1] of the run is behind."""
    climbing = done / config.warmup_ratio if config.warmup_ratio else 1.0
    falling = (1 - done) / config.cooldown_ratio if config.cooldown_ratio else 1.0
    return max(0.0, min(1.0, climbing, falling))


class AveragedWeights:
    """An exponential moving average of parameters, float32 on their device; young averages forget faster."""

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float):
        self.parameters, self.decay, self.updates = list(parameters), decay, 0
        self.means = [parameter.detach().float().clone() for parameter in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Count the parameters as they are now."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        torch._foreach_lerp_(self.means, [parameter.detach().float() for parameter in self.parameters], 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Put the averages in the place of the parameters, and the parameters in theirs."""
        for parameter, mean in zip(self.parameters, self.means, strict=True):
            kept = parameter.detach().float().clone()
            parameter.copy_(mean)
            mean.copy_(kept)

    def state_dict(self) -> dict[str, object]:
        return {"means": self.means, "updates": self.updates}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        for mean, saved in zip(self.means, state["means"], strict=True):  # type: ignore[call-overload]
            mean.copy_(saved)
        self.updates = int(state["updates"])  # type: ignore[call-overload]


def named_trained(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters that learn, by name."""
    return ((name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad)
