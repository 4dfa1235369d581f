"""Engine without sharding: every worker holds all weights and updates them with the optimizers themselves."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fireedit.platform.train.checkpoints import WEIGHTS, CheckpointFiles, Fragment
from fireedit.platform.train.engine import Engine, EngineConfig
from fireedit.platform.train.optimizer import OptimizerConfig, build_optimizers, named_trained


class ReplicatedEngine(Engine):
    """Data parallelism in torch alone: gradients are averaged over the workers, float32, in one buffer.

    In bf16 the forward pass runs under autocast over float32 weights.

    Args:
        exact: frozen submodules; all keep their precision here.
    """

    def __init__(
        self,
        module: nn.Module,
        config: EngineConfig,
        optimizer: OptimizerConfig,
        exact: Sequence[nn.Module],
        ema: float,
    ):
        super().__init__(module, config, optimizer)
        self.module = module.to(self.device)
        named = list(named_trained(module))
        self.parameters = [parameter for _, parameter in named]
        self.optimizers = build_optimizers(named, optimizer)
        self._groups = [group for member in self.optimizers for group in member.param_groups]
        self._rates = [group["lr"] for group in self._groups]
        self._passes, self._norm = 0, torch.zeros(())
        states: dict[Tensor, dict[str, Tensor]] = {}
        for member in self.optimizers:
            states |= {parameter: state_of(member, parameter) for parameter in parameters_of(member)}
        self.hold([_fragment(name, parameter, states[parameter]) for name, parameter in named], ema)

    def model(self, *args: object) -> object:
        with self.autocast():
            return self.module(*args)

    def autocast(self) -> torch.autocast:
        """Cast weights within the block, once each."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16")

    @property
    def learning_rate(self) -> float:
        return self._groups[0]["lr"]

    @property
    def grad_norm(self) -> float:
        return float(self._norm)

    def owned(self) -> list[Fragment]:
        return self.held[self.rank :: self.workers]

    def backward(self, loss: Tensor) -> None:
        (loss / self.config.accumulate).backward()
        self._passes += 1

    def update(self, rate: float) -> bool:
        if self._passes % self.config.accumulate:
            return False
        self._average_gradients()
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.clip)
        self._norm = norm + 0 * self._norm  # stays NaN after a norm that is not finite
        for group, full_rate in zip(self._groups, self._rates, strict=True):
            group["lr"] = rate * full_rate
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return True

    def set_updates(self, count: int) -> None:
        for optimizer in self.optimizers:
            set_steps(optimizer, count)

    def set_weights(self, files: CheckpointFiles) -> None:
        """Do nothing: the held weights are the parameters."""

    def _average_gradients(self) -> None:
        """Average gradients over the workers; a parameter that a worker's samples did not reach has one of zeros."""
        gradients = list[Tensor]()
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        if self.workers > 1:
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            torch.distributed.all_reduce(flat)
            pieces = (flat / self.workers).split([gradient.numel() for gradient in gradients])
            torch._foreach_copy_(gradients, [p.view_as(g) for p, g in zip(pieces, gradients, strict=True)])


def parameters_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """List the tensors that an optimizer updates."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def state_of(optimizer: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """Make an optimizer's zero states of a parameter, which it else makes at its first update; returns them by name."""
    state = optimizer.state[parameter]
    if isinstance(optimizer, torch.optim.AdamW):
        state.setdefault("step", torch.zeros(()))
    for name in ("exp_avg", "exp_avg_sq") if isinstance(optimizer, torch.optim.AdamW) else ("momentum",):
        state.setdefault(name, torch.zeros_like(parameter))
    return {name: values for name, values in state.items() if name != "step"}


def set_steps(optimizer: torch.optim.Optimizer, count: int) -> None:
    """Set the number of updates that an AdamW's states have seen."""
    for state in optimizer.state.values():
        if "step" in state:
            state["step"] = torch.tensor(float(count))


def _fragment(name: str, parameter: nn.Parameter, states: dict[str, Tensor]) -> Fragment:
    """View a whole parameter and its states, in whatever memory format, as one fragment."""
    return Fragment(name, 0, {WEIGHTS: parameter.detach(), **states})
