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

from fireedit.platform.train.optimizer import (
    AveragedWeights,
    ClippedTogether,
    OptimizerConfig,
    build_optimizers,
    named_trained,
    rate_at,
)

CHECKPOINT_TAG = "engine"
STATE, AVERAGES = "state", "averages"
"""Keys of this engine's entries in DeepSpeed's client state."""
WORKERS_FILE = "workers.json"
"""File of a checkpoint with the number of workers that share it."""


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    micro_batch: PositiveInt
    """Samples per worker and forward pass."""
    accumulate: PositiveInt = 1
    """Forward passes per optimizer step."""
    precision: Literal["fp32", "bf16"] = "bf16"
    zero_stage: Literal[0, 1, 2, 3] = 2
    """DeepSpeed's sharding over the workers: 0 nothing, 1 optimizer state, 2 also gradients, 3 also parameters."""
    clip: PositiveFloat = 1.0
    """Largest norm of the gradient."""

    @property
    def whole(self) -> bool:
        """True if every worker updates whole float32 weights with the optimizer itself, as Muon needs."""
        return self.zero_stage == 0 and self.precision == "fp32"

    def deepspeed(self) -> dict[str, Any]:
        """Build DeepSpeed's own dictionary, without an optimizer or scheduler, which would override the recipe's.

        Unsharded in fp32, DeepSpeed does not clip either: `ClippedTogether` does, and gives the norm.
        """
        return {
            "train_micro_batch_size_per_gpu": self.micro_batch,
            "gradient_accumulation_steps": self.accumulate,
            "gradient_clipping": 0.0 if self.whole else self.clip,
            "bf16": {"enabled": self.precision == "bf16"},
            "zero_optimization": {"stage": self.zero_stage},
            "steps_per_print": 10**9,
        }


def check_engine(config: EngineConfig, optimizer: OptimizerConfig, ema: float) -> None:
    """Raise ValueError where ZeRO leaves no worker the whole weights that averages or Muon need."""
    if ema and config.zero_stage == 3:
        raise ValueError(f"ema: found {ema} where ZeRO 3 shards the weights; write ema=0 or engine.zero_stage=2")
    if optimizer.muon_lr is not None and not config.whole:
        raise ValueError(
            f"optimizer.muon_lr: found ZeRO {config.zero_stage} in {config.precision}, which flattens matrices; write "
            "engine.zero_stage=0 and engine.precision=fp32, or leave muon_lr out"
        )


class Engine:
    """A module and its optimizer under DeepSpeed, on this worker's device.

    Args:
        module: module whose `forward` makes losses; its parameters that require a gradient are trained.
        exact: frozen submodules that keep their precision; ZeRO 3 rounds all.
        ema: decay of the running average of the trained parameters, which `gathered` gives; 0 keeps none.
    """

    def __init__(
        self,
        module: nn.Module,
        config: EngineConfig,
        optimizer: OptimizerConfig,
        exact: Sequence[nn.Module] = (),
        ema: float = 0.0,
    ):
        deepspeed = _deepspeed()
        unrounded = [(parameter, parameter.data) for frozen in exact for parameter in frozen.parameters()]
        optimizers = build_optimizers(named_trained(module), optimizer)
        joint: torch.optim.Optimizer = ClippedTogether(optimizers, config.clip) if config.whole else optimizers[0]
        self.config, self._schedule = config, optimizer
        self._rates = [group["lr"] for group in joint.param_groups]
        self.model, self._optimizer, _, _ = deepspeed.initialize(
            model=module, optimizer=joint, config=config.deepspeed()
        )
        if config.zero_stage < 3:
            for parameter, data in unrounded:
                parameter.data = data.to(self.device)
        if self.device.type == "cuda":
            torch.set_float32_matmul_precision("high")  # TF32, as convolutions are by default
        self._averages = AveragedWeights((parameter for _, parameter in named_trained(module)), ema) if ema else None

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def learning_rate(self) -> float:
        """Learning rate of the first parameter group."""
        return self._optimizer.param_groups[0]["lr"]

    @property
    def grad_norm(self) -> float:
        """Gradient norm of the last update, before clipping."""
        return float(self.model.get_global_grad_norm() or 0.0)

    def step(self, loss: Tensor, done: float) -> None:
        """Run backward; at the end of an accumulation also clip, update and average.

        Args:
            done: share of the run in [0, 1] before this step, which sets the learning rate.
        """
        self.model.backward(loss)
        updates, rate = self.model.is_gradient_accumulation_boundary(), rate_at(done, self._schedule)
        for group, full_rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * full_rate
        self.model.step()
        if updates and self._averages is not None:
            self._averages.update()

    def first_workers(self, value: float) -> float:
        """Broadcast a number from the first worker to all."""
        values = [value]
        torch.distributed.broadcast_object_list(values, device=self.device)
        return values[0]

    def mean(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """Average scalars over the workers."""
        means = self.total(torch.stack(list(values.values()))) / torch.distributed.get_world_size()
        return dict(zip(values, means.tolist(), strict=True))

    def total(self, values: Tensor) -> Tensor:
        """Sum a tensor over the workers."""
        summed = values.float().to(self.device)
        torch.distributed.all_reduce(summed)
        return summed.cpu()

    def save(self, folder: Path, state: dict[str, Any]) -> None:
        """Save this worker's shard of parameters and optimizer state, averages and `state`; all workers call it."""
        entries = {STATE: state, AVERAGES: None if self._averages is None else self._averages.state_dict()}
        self.model.save_checkpoint(folder, tag=CHECKPOINT_TAG, client_state=entries, exclude_frozen_parameters=True)
        (folder / WORKERS_FILE).write_text(json.dumps(torch.distributed.get_world_size()))

    def load(self, folder: Path) -> dict[str, Any]:
        """Load a checkpoint that any number of workers saved; returns its `state`."""
        saved_by = json.loads((folder / WORKERS_FILE).read_text())
        if self.config.zero_stage == 0 or saved_by == torch.distributed.get_world_size():
            return self._load(folder)
        with _resharded(folder) as universal:
            self.model._config.load_universal_checkpoint = True  # DeepSpeed reads it only when an engine is built
            state = self._load(universal)
            self.model._config.load_universal_checkpoint = False
        return state

    def _load(self, folder: Path) -> dict[str, Any]:
        path, entries = self.model.load_checkpoint(str(folder), tag=CHECKPOINT_TAG, load_module_strict=False)
        if path is None:
            raise FileNotFoundError(f"{folder}: no checkpoint of the engine is in this folder")
        if self._averages is not None:
            self._averages.load_state_dict(entries[AVERAGES])
        return entries[STATE]

    @contextmanager
    def gathered(self) -> Iterator[nn.Module]:
        """Give the module with whole, averaged parameters on every worker, also if ZeRO 3 shards them.

        Parameters are in the engine's precision: the float32 masters of a bf16 run are in its checkpoints only.
        """
        zero = _deepspeed().zero
        parameters = list(self.model.module.parameters())
        with zero.GatheredParameters(parameters, enabled=self.config.zero_stage == 3):
            if self._averages is None:
                yield self.model.module
                return
            self._averages.swap()
            try:
                yield self.model.module
            finally:
                self._averages.swap()


@contextmanager
def _resharded(folder: Path) -> Iterator[Path]:
    """Convert a checkpoint to one for any number of workers, on every node's disk; removed after the block."""
    name = [f"fireedit-{uuid.uuid4().hex}"]
    torch.distributed.broadcast_object_list(name)
    universal, first_here = Path(tempfile.gettempdir()) / name[0], os.environ.get("LOCAL_RANK", "0") == "0"
    if first_here:
        words = ["--input_folder", str(folder / CHECKPOINT_TAG), "--output_folder", str(universal / CHECKPOINT_TAG)]
        command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", *words, "--inject_missing_state"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{folder}: cannot be resharded for other workers:\n{done.stderr[-2000:]}")
        (universal / "latest_universal").write_text(CHECKPOINT_TAG)
    torch.distributed.barrier()
    try:
        yield universal
        torch.distributed.barrier()
    finally:
        if first_here:
            shutil.rmtree(universal, ignore_errors=True)


def _deepspeed() -> Any:
    """Import DeepSpeed on Ray Train's process group; on CPUs without its collective that needs a compiler."""
    backend = torch.distributed.get_backend()
    on_cpus = backend == "gloo"  # also on a machine with GPUs, if the recipe asks for none
    os.environ["DS_ACCELERATOR"] = "cpu" if on_cpus else "cuda"
    import deepspeed
    import deepspeed.ops

    if on_cpus:  # on GPUs reading this table would compile every operator
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    warnings.filterwarnings("ignore", "`torch.distributed.*` is deprecated", FutureWarning)  # DeepSpeed uses them
    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(backend, dist_init_required=None, verbose=False)
    return deepspeed
