"""Training engines: a module with its optimizer, precision, accumulation, clipping, averages and state to save."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from fireedit.platform.train.checkpoints import (
    AVERAGES,
    WEIGHTS,
    CheckpointError,
    CheckpointFiles,
    CheckpointState,
    Fragment,
)
from fireedit.platform.train.optimizer import AveragedWeights, OptimizerConfig, named_trained, rate_at


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    micro_batch: PositiveInt
    """Samples per worker and forward pass."""
    accumulate: PositiveInt = 1
    """Forward passes per optimizer step."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """Precision of forward and backward. Trained weights, sums of gradients and the optimizer are always in float32."""
    zero_stage: Literal[1, 2, 3] | None = 1
    """DeepSpeed's sharding over the workers: 1 optimizer state, 2 also gradients, 3 also parameters. None: no
    DeepSpeed; every worker updates all weights itself, as Muon needs."""
    clip: PositiveFloat = 1.0
    """Largest norm of the gradient."""


def check_engine(config: EngineConfig, optimizer: OptimizerConfig) -> None:
    """Raise ValueError where ZeRO flattens the matrices that Muon needs."""
    if optimizer.muon_lr is not None and config.zero_stage is not None:
        raise ValueError(
            f"optimizer.muon_lr: found ZeRO {config.zero_stage}, which flattens matrices; write "
            "engine.zero_stage=null or optimizer.muon_lr=null"
        )


class Engine(ABC):
    """A module and its optimizer on this worker's device; `build_engine` chooses the kind.

    All workers call the same methods in the same order.

    Args:
        module: its parameters that require a gradient are trained.
    """

    model: Callable[..., Any]
    """Runs the module's forward pass in the engine's precision."""
    held: list[Fragment]
    """Float32 weights and states of the optimizer that this worker holds."""
    averages: AveragedWeights | None
    """Running average of the held weights."""

    def __init__(self, module: nn.Module, config: EngineConfig, optimizer: OptimizerConfig):
        self.config, self.schedule = config, optimizer
        self.device = local_device()
        self.workers, self.rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
        self.shapes = {name: list(parameter.shape) for name, parameter in named_trained(module)}
        """Shape of every trained parameter."""
        self.updates = 0
        """Updates of the weights so far."""
        if self.device.type == "cuda":
            torch.set_float32_matmul_precision("high")  # TF32, as convolutions are by default

    @property
    @abstractmethod
    def learning_rate(self) -> float:
        """Learning rate of the first parameter group."""

    @property
    @abstractmethod
    def grad_norm(self) -> float:
        """Gradient norm of the last update, before clipping; waits for the device.

        An engine that skips updates whose gradients are not finite keeps the norm of the last that it did; of others it
        is not finite from the first such update on.
        """

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Run backward for one of an accumulation's passes."""

    @abstractmethod
    def update(self, rate: float) -> bool:
        """Clip and update, at `rate` times the full learning rates; returns False within an accumulation."""

    @abstractmethod
    def set_updates(self, count: int) -> None:
        """Tell the optimizer how many updates the loaded states have seen."""

    @abstractmethod
    def set_weights(self, files: CheckpointFiles) -> None:
        """Make the weights that forward passes read equal to a checkpoint's, after the held ones were loaded."""

    def step(self, loss: Tensor, done: float) -> None:
        """Run backward; at the end of an accumulation also clip, update and average.

        Args:
            done: share of the run in [0, 1] before this step, which sets the learning rate.
        """
        self.backward(loss)
        if self.update(rate_at(done, self.schedule)):
            self.updates += 1
            if self.averages is not None:
                self.averages.update()

    def autocast(self) -> AbstractContextManager[Any]:
        """Run the block in the engine's precision, where the module itself is in float32."""
        return nullcontext()

    def owned(self) -> list[Fragment]:
        """List the held fragments that this worker is to save, so that together all are saved once."""
        return self.held

    def state(self, step: int, attempt: str, position: dict[str, Any]) -> CheckpointState:
        """Describe a checkpoint of this engine."""
        return CheckpointState(step, self.workers, attempt, self.shapes, self.updates, position)

    @torch.no_grad()
    def load(self, files: CheckpointFiles) -> None:
        """Load weights, states of the optimizer and averages from a checkpoint of any number of workers.

        Raises:
            CheckpointError: it is of other parameters, or lacks the averages.
        """
        _require_same(files.state.shapes, self.shapes, str(files.folder))
        for fragment in self.held:
            for kind, values in fragment.tensors.items():
                saved = files.values(kind, fragment.name, fragment.start, values.numel())
                values.copy_(saved.view(values.shape))
        self.updates = files.state.updates
        self.set_updates(self.updates)
        self.set_weights(files)
        if self.averages is not None:
            self.averages.updates = self.updates

    def hold(self, fragments: list[Fragment], ema: float) -> None:
        """Take note of the fragments that this worker holds, and average their weights if `ema` is not 0."""
        self.averages = AveragedWeights([fragment.tensors[WEIGHTS] for fragment in fragments], ema) if ema else None
        means = self.averages.means if self.averages is not None else [None] * len(fragments)
        self.held = [
            fragment if mean is None else Fragment(fragment.name, fragment.start, {**fragment.tensors, AVERAGES: mean})
            for fragment, mean in zip(fragments, means, strict=True)
        ]


def build_engine(
    module: nn.Module,
    config: EngineConfig,
    optimizer: OptimizerConfig,
    exact: Sequence[nn.Module] = (),
    ema: float = 0.0,
) -> Engine:
    """Build the engine that a recipe asks for, on this worker's device; torch's process group is there.

    Args:
        module: module whose `forward` makes losses; parameters that require a gradient are trained, and float32.
        exact: frozen submodules that keep their precision.
        ema: decay of the running average of the trained parameters; 0 keeps none.
    """
    if config.zero_stage is None:
        from fireedit.platform.train.replicated import ReplicatedEngine

        return ReplicatedEngine(module, config, optimizer, exact, ema)
    from fireedit.platform.train.sharded import ShardedEngine  # DeepSpeed takes seconds to import

    return ShardedEngine(module, config, optimizer, exact, ema)


def local_device() -> torch.device:
    """Find this worker's device: its GPU if the process group is NCCL's, as a recipe may ask for CPUs beside GPUs."""
    on_gpu = torch.distributed.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")


def _require_same(found: dict[str, list[int]], wanted: dict[str, list[int]], where: str) -> None:
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            raise CheckpointError(
                f"{where}: {name} has shape {found.get(name)} there and {wanted.get(name)} here; resume with the "
                "recipe that saved it"
            )
