"""Engine on DeepSpeed's ZeRO: states, gradients and parameters sharded over the workers."""

import os
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fireedit.platform.train.checkpoints import WEIGHTS, CheckpointFiles, Fragment
from fireedit.platform.train.engine import Engine, EngineConfig
from fireedit.platform.train.optimizer import OptimizerConfig, build_optimizers, named_trained
from fireedit.platform.train.replicated import set_steps, state_of

BUCKET = 200_000_000
"""Values that are reduced or gathered together."""


class ShardedEngine(Engine):
    """DeepSpeed with float32 weights and moments sharded over the workers, as `zero_stage` says.

    In bf16 DeepSpeed rounds the whole module; the float32 weights are those that the module came with, not their
    rounded values. Gradients are summed over passes and workers in float32.

    A pass has to give a tensor or a tuple, list or dictionary of tensors, as DeepSpeed prepares backward when it begins
    at one of those; without that, ZeRO 1 in bf16 would count the gradients of earlier passes again.

    On every worker every pass has to give every trained parameter a gradient, if only one of zeros, and in the same
    order: ZeRO reduces them while backward runs.
    """

    model: Any

    def __init__(
        self,
        module: nn.Module,
        config: EngineConfig,
        optimizer: OptimizerConfig,
        exact: Sequence[nn.Module],
        ema: float,
    ):
        super().__init__(module, config, optimizer)
        deepspeed = import_deepspeed()
        (adamw,) = build_optimizers(named_trained(module), optimizer)
        self._rates = [group["lr"] for group in adamw.param_groups]
        unrounded = {name: parameter.detach() for name, parameter in named_trained(module)}
        _leave_out(module, exact)
        for part in exact:
            part.to(self.device)
        buffers = [(part, name, buffer) for part in module.modules() for name, buffer in part._buffers.items()]
        self.model, self._zero, _, _ = deepspeed.initialize(
            model=module, optimizer=adamw, config=deepspeed_config(config, self.device)
        )
        for part, name, buffer in buffers:  # rounded ones would turn positions of LLaMA's rotary embedding wrong
            part._buffers[name] = None if buffer is None else buffer.to(self.device)
        self.model.module.register_forward_hook(require_outputs)
        self._adamw: torch.optim.Optimizer = self._zero.optimizer
        self._trained: dict[str, Any] = dict(named_trained(self.model.module))
        held = list(self._sharded_states() if config.zero_stage == 3 else self._partitioned_states())
        with torch.no_grad():
            for fragment in held:
                weights = fragment.tensors[WEIGHTS]
                weights.copy_(unrounded[fragment.name].view(-1)[fragment.start : fragment.start + len(weights)])
        self.hold(held, ema)
        self._norm: Tensor | float | None = None

    @property
    def learning_rate(self) -> float:
        return self._zero.param_groups[0]["lr"]

    @property
    def grad_norm(self) -> float:
        return float(self._norm or 0.0)

    def backward(self, loss: Tensor) -> None:
        self.model.backward(loss)

    def update(self, rate: float) -> bool:
        updates = self.model.is_gradient_accumulation_boundary()
        for group, full_rate in zip(self._zero.param_groups, self._rates, strict=True):
            group["lr"] = rate * full_rate
        self.model.step()
        if self.model.was_step_applied():  # DeepSpeed skips updates whose gradients overflow
            self._norm = self.model.get_global_grad_norm()
        return updates

    def set_updates(self, count: int) -> None:
        set_steps(self._adamw, count)

    def set_weights(self, files: CheckpointFiles) -> None:
        """Round the checkpoint's weights into the parameters; ZeRO 3 keeps this worker's runs of them only."""
        if self.config.zero_stage == 3:
            for fragment in self.held:
                weights = fragment.tensors[WEIGHTS]
                self._trained[fragment.name].ds_tensor[: len(weights)].copy_(weights)
            return
        for name, parameter in self._trained.items():
            parameter.copy_(files.values(WEIGHTS, name, 0, parameter.numel()).view(parameter.shape))

    def _partitioned_states(self) -> Iterator[Fragment]:
        """Walk the runs of parameters in this worker's partition of ZeRO 1 or 2."""
        for name, parameter in self._trained.items():
            run = parameter._hp_mapping
            if run is None:  # no value of it belongs to this worker
                continue
            flat = self._adamw.param_groups[run.param_group_index]["params"][0]
            place = run.hp_fragment_address
            yield self._fragment(name, run.lp_fragment_address.start, flat, place.start, place.numel)

    def _sharded_states(self) -> Iterator[Fragment]:
        """Walk this worker's shards of parameters under ZeRO 3, less their padding."""
        zero = self._zero
        for name, parameter in self._trained.items():
            group, offset, _ = zero.grad_position[zero.get_param_id(parameter)]
            start = self.rank * parameter.ds_tensor.ds_numel
            count = min(parameter.ds_tensor.ds_numel, parameter.ds_numel - start)
            if count > 0:
                yield self._fragment(name, start, zero.fp32_partitioned_groups_flat[group], offset, count)

    def _fragment(self, name: str, start: int, flat: Tensor, offset: int, count: int) -> Fragment:
        """View `count` values of a flat partition, from `offset` on, that are those of a parameter from `start` on."""
        tensors = {WEIGHTS: flat.detach(), **state_of(self._adamw, flat)}
        return Fragment(name, start, {kind: values.narrow(0, offset, count) for kind, values in tensors.items()})


def deepspeed_config(config: EngineConfig, device: torch.device) -> dict[str, Any]:
    """Build DeepSpeed's own dictionary, without an optimizer or scheduler, which would override the recipe's."""
    on_gpu = device.type == "cuda"
    return {
        "train_micro_batch_size_per_gpu": config.micro_batch,
        "gradient_accumulation_steps": config.accumulate,
        "gradient_clipping": config.clip,
        "bf16": {"enabled": config.precision == "bf16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "zero_optimization": {
            "stage": config.zero_stage,
            "overlap_comm": on_gpu and config.zero_stage != 1,
            "contiguous_gradients": True,
            "reduce_bucket_size": BUCKET,
            "allgather_bucket_size": BUCKET,
        },
        "steps_per_print": 10**9,
    }


def require_outputs(module: nn.Module, inputs: Any, outputs: Any) -> None:
    """Raise TypeError, as a forward hook, if DeepSpeed finds no tensor in a pass's outputs."""
    if not isinstance(outputs, Tensor | tuple | list | dict):
        raise TypeError(
            f"{type(module).__name__}.forward returns {type(outputs).__name__}, where DeepSpeed finds no tensor; "
            "return a tensor, tuple, list, dictionary or a diffusers BaseOutput"
        )


def _leave_out(module: nn.Module, parts: Sequence[nn.Module]) -> None:
    """Make frozen parts plain attributes of their parents, so that DeepSpeed neither rounds nor shards them."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if any(child is part for part in parts):
                del parent._modules[name]
                object.__setattr__(parent, name, child)


def import_deepspeed() -> Any:
    """Import DeepSpeed on torch's process group; on CPUs without its collective that needs a compiler."""
    backend = torch.distributed.get_backend()
    on_cpus = backend == "gloo"  # also on a machine with GPUs, if the recipe asks for none
    os.environ["DS_ACCELERATOR"] = "cpu" if on_cpus else "cuda"
    os.environ.setdefault("LOCAL_RANK", "0")  # required, though a process alone was not launched with one
    import deepspeed
    import deepspeed.ops

    if on_cpus:  # on GPUs reading this table would compile every operator
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    warnings.filterwarnings("ignore", "`torch.distributed.*` is deprecated", FutureWarning)  # DeepSpeed uses them
    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(backend, dist_init_required=None, verbose=False)
    return deepspeed
