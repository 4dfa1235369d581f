"""DeepSpeed as the training engine: sharding, precision, accumulation, clipping, and sharded checkpoints."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from fireedit.platform.train.optimizer import OptimizerConfig, build_optimizer, learning_rate_over

CHECKPOINT_TAG = "engine"
STATE = "state"
"""Ours among what DeepSpeed keeps beside the tensors."""
WORKERS_FILE = "workers.json"
"""Says, in a checkpoint, how many workers share it."""


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    micro_batch: PositiveInt
    """Samples per worker and forward pass."""
    accumulate: PositiveInt = 1
    """Forward passes per optimiser step."""
    precision: Literal["fp32", "bf16"] = "bf16"
    zero_stage: Literal[0, 1, 2, 3] = 2
    """What DeepSpeed shards over the workers: nothing, optimiser state, also gradients, also parameters."""
    clip: PositiveFloat = 1.0
    """Largest norm of the gradient."""

    def deepspeed(self) -> dict[str, Any]:
        """DeepSpeed's own dictionary; it has no optimiser or scheduler, which would override the recipe's."""
        return {
            "train_micro_batch_size_per_gpu": self.micro_batch,
            "gradient_accumulation_steps": self.accumulate,
            "gradient_clipping": self.clip,
            "bf16": {"enabled": self.precision == "bf16"},
            "zero_optimization": {"stage": self.zero_stage},
            "steps_per_print": 10**9,
        }


class Engine:
    """A module and its optimiser under DeepSpeed, on this worker's device.

    Args:
        module: its `forward` makes losses; its parameters that require a gradient are trained.
        steps: optimiser steps of the whole run, for the schedule.
        exact: frozen parts of the module that keep their precision; under ZeRO 3 all are rounded.
    """

    def __init__(
        self,
        module: nn.Module,
        config: EngineConfig,
        optimizer: OptimizerConfig,
        steps: int,
        exact: Sequence[nn.Module] = (),
    ):
        deepspeed = _deepspeed()
        kept = [(parameter, parameter.data) for part in exact for parameter in part.parameters()]
        trained = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
        self.config = config
        self.model, self._optimizer, _, self._scheduler = deepspeed.initialize(
            model=module,
            optimizer=build_optimizer(trained, optimizer),
            lr_scheduler=lambda inner: torch.optim.lr_scheduler.LambdaLR(inner, learning_rate_over(steps, optimizer)),
            config=config.deepspeed(),
        )
        if config.zero_stage < 3:
            for parameter, data in kept:
                parameter.data = data.to(self.device)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def learning_rate(self) -> float:
        """Of the first parameter group."""
        return self._optimizer.param_groups[0]["lr"]

    @property
    def grad_norm(self) -> float:
        """Of the last update, before clipping."""
        return float(self.model.get_global_grad_norm() or 0.0)

    def step(self, loss: Tensor) -> None:
        """Backward; at the end of an accumulation also clip, update and schedule."""
        self.model.backward(loss)
        self.model.step()

    def mean(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """Scalars, averaged over the workers."""
        stacked = torch.stack([value.float() for value in values.values()])
        torch.distributed.all_reduce(stacked)
        return dict(zip(values, (stacked / torch.distributed.get_world_size()).tolist(), strict=True))

    def total(self, values: Tensor) -> Tensor:
        """Numbers, summed over the workers."""
        summed = values.float().to(self.device)
        torch.distributed.all_reduce(summed)
        return summed.cpu()

    def save(self, folder: Path, state: dict[str, Any]) -> None:
        """This worker's share of the trained parameters and optimiser state, and `state`; every worker must call it."""
        self.model.save_checkpoint(
            folder, tag=CHECKPOINT_TAG, client_state={STATE: state}, exclude_frozen_parameters=True
        )
        (folder / WORKERS_FILE).write_text(json.dumps(torch.distributed.get_world_size()))

    def load(self, folder: Path) -> dict[str, Any]:
        """Take up what `save` wrote, with whatever number of workers; returns its `state`."""
        if json.loads((folder / WORKERS_FILE).read_text()) == torch.distributed.get_world_size():
            return self._load(folder)
        with _resharded(folder) as universal:
            self.model._config.load_universal_checkpoint = True  # DeepSpeed asks for it when an engine is made
            state = self._load(universal)
            self.model._config.load_universal_checkpoint = False
        return state

    def _load(self, folder: Path) -> dict[str, Any]:
        path, state = self.model.load_checkpoint(str(folder), tag=CHECKPOINT_TAG, load_module_strict=False)
        if path is None:
            raise FileNotFoundError(f"{folder}: no checkpoint of the engine lies here")
        return state[STATE]

    @contextmanager
    def gathered(self) -> Iterator[nn.Module]:
        """The module with whole parameters on every worker, also where ZeRO 3 shards them.

        They are in the engine's precision: of a bf16 run the float32 masters live on in its checkpoints only.
        """
        zero = _deepspeed().zero
        parameters = list(self.model.module.parameters())
        with zero.GatheredParameters(parameters, enabled=self.config.zero_stage == 3):
            yield self.model.module


@contextmanager
def _resharded(folder: Path) -> Iterator[Path]:
    """A checkpoint as one that any number of workers can load, on every node's disk; gone after the block."""
    name = [f"fireedit-{uuid.uuid4().hex}"]
    torch.distributed.broadcast_object_list(name)
    universal, first_here = Path(tempfile.gettempdir()) / name[0], os.environ.get("LOCAL_RANK", "0") == "0"
    if first_here:
        words = ["--input_folder", str(folder / CHECKPOINT_TAG), "--output_folder", str(universal / CHECKPOINT_TAG)]
        command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", *words, "--inject_missing_state"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{folder}: cannot be taken up by another number of workers:\n{done.stderr[-2000:]}")
        (universal / "latest_universal").write_text(CHECKPOINT_TAG)
    torch.distributed.barrier()
    try:
        yield universal
        torch.distributed.barrier()
    finally:
        if first_here:
            shutil.rmtree(universal, ignore_errors=True)


def _deepspeed() -> Any:
    """DeepSpeed on the group that Ray Train has started; on CPUs without its collective that needs a compiler."""
    backend = torch.distributed.get_backend()
    if backend == "gloo":  # also on a machine with GPUs, if the recipe asks for none
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    warnings.filterwarnings("ignore", "`torch.distributed.*` is deprecated", FutureWarning)  # DeepSpeed uses them
    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(backend, dist_init_required=None, verbose=False)
    return deepspeed
