"""Sharded checkpoints in a layout that depends on no sharding: any number of workers reads what any other wrote.

A run's folder holds

    step-00000500/
        shard-00003-of-00016-1a2b3c4d.safetensors   runs of values of trained parameters that worker 3 held
        state.json                                  step, position in the data, and the shards that belong together

A key of a shard is `KIND/PARAMETER@START`: values of one kind (`weights` in float32, `averages`, moments of the
optimizer) of a parameter, flattened, from START on. Every file appears whole or not at all, and the shards of one
attempt bear its name: a checkpoint is complete if `state.json` and all its shards are there.

Source: the runs are those of ZeRO's partitions, as in DeepSpeed's universal checkpoints, without their conversion.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from fireedit.platform import storage

WEIGHTS, AVERAGES = "weights", "averages"
STATE_FILE = "state.json"
PREFIX = "step-"


class CheckpointError(ValueError):
    """A checkpoint that does not fit the model; the message names the parameter."""


@dataclass(frozen=True)
class Fragment:
    """Run of values of one parameter that this worker holds; tensors are views of its memory, of any shape."""

    name: str
    start: int
    tensors: Mapping[str, Tensor]
    """Weights and states of the optimizer, by kind."""


@dataclass(frozen=True)
class CheckpointState:
    """Contents of a checkpoint's state.json."""

    step: int
    workers: int
    attempt: str
    """Name of this attempt at the checkpoint: a killed one may have left shards of the same step."""
    shapes: dict[str, list[int]]
    """Shape of every trained parameter."""
    updates: int = 0
    """Updates of the optimizer."""
    position: dict[str, Any] = field(default_factory=dict)
    """State of the training task, such as its place in the data."""

    @property
    def shards(self) -> list[str]:
        """List the names of all shards."""
        return [f"shard-{rank:05d}-of-{self.workers:05d}-{self.attempt}.safetensors" for rank in range(self.workers)]


def name_of(step: int) -> str:
    """Name of the folder of a step's checkpoint."""
    return f"{PREFIX}{step:08d}"


def path_of(folder: str, step: int) -> str:
    """Address of a step's checkpoint in a run's folder."""
    return storage.join(folder, name_of(step))


def step_of(address: str) -> int:
    """Read the step of a checkpoint off its address."""
    return int(address.partition("?")[0].rpartition(PREFIX)[2])


def latest(folder: str) -> str | None:
    """Find the newest complete checkpoint; returns its address."""
    names = (name for name in storage.names(folder) if name.startswith(PREFIX))
    addresses = (storage.join(folder, name) for name in sorted(names, reverse=True))
    return next((address for address in addresses if is_complete(address)), None)


def is_complete(address: str) -> bool:
    """Check that the checkpoint's state and every shard that it names are there."""
    present = set(storage.names(address))
    return STATE_FILE in present and present.issuperset(read_state(address).shards)


def read_state(address: str) -> CheckpointState:
    return CheckpointState(**json.loads(storage.read_bytes(storage.join(address, STATE_FILE))))


def remove_others(folder: str, keep: int, writing: bool = False) -> None:
    """Remove incomplete checkpoints, and all but the newest `keep` complete ones.

    Args:
        writing: workers may be writing a checkpoint; what is newer than the newest complete one stays.
    """
    names = [name for name in storage.names(folder) if name.startswith(PREFIX)]
    complete = [name for name in sorted(names, reverse=True) if is_complete(storage.join(folder, name))]
    for name in set(names) - set(complete[:keep]):
        if not writing or name < max(complete, default=""):
            storage.remove_folder(storage.join(folder, name))


class Snapshot:
    """Copy of a worker's fragments in its CPU's memory, written while training goes on.

    The memory is kept for the next copy: fresh pages would take longer than the copy itself.
    """

    def __init__(self) -> None:
        self._copies: dict[str, Tensor] = {}

    def take(self, fragments: Iterable[Fragment]) -> None:
        """Copy all fragments; the last copy must have been written."""
        copies, on_gpu = {}, False
        for fragment in fragments:
            for kind, values in fragment.tensors.items():
                key = f"{kind}/{fragment.name}@{fragment.start}"
                copy = self._copies.get(key)
                if copy is None or len(copy) != values.numel():
                    copy = torch.empty(values.numel(), dtype=values.dtype, pin_memory=values.is_cuda)
                copy.view(values.shape).copy_(values.detach(), non_blocking=True)
                copies[key] = copy
                on_gpu = on_gpu or values.is_cuda
        if on_gpu:
            torch.cuda.synchronize()
        self._copies = copies

    def write(self, address: str, state: CheckpointState, rank: int) -> None:
        """Write this worker's shard, and on the first worker the state, to the checkpoint's folder."""
        with storage.writing_file(storage.join(address, state.shards[rank])) as path:
            safetensors.torch.save_file(self._copies, path)
        if rank == 0:
            storage.write_bytes(storage.join(address, STATE_FILE), json.dumps(asdict(state)).encode())


class CheckpointFiles:
    """Opened checkpoint, memory-mapped: reads whole parameters or runs of their values."""

    def __init__(self, folder: Path, shards: Sequence[Any], state: CheckpointState):
        self.folder, self.state = folder, state
        self._runs: dict[str, list[tuple[int, Any, str]]] = {}
        for shard in shards:
            for key in shard.keys():  # noqa: SIM118  # no mapping
                name, _, start = key.rpartition("@")
                self._runs.setdefault(name, []).append((int(start), shard, key))

    @classmethod
    @contextmanager
    def open(cls, address: str) -> Iterator[Self]:
        """Open a complete checkpoint; a remote one is copied to this node first."""
        with storage.reading_folder(address) as folder, ExitStack() as stack:
            state = read_state(str(folder))
            shards = [stack.enter_context(safe_open(folder / name, framework="pt")) for name in state.shards]
            yield cls(folder, shards, state)

    def has(self, kind: str) -> bool:
        """Check whether the checkpoint holds values of a kind."""
        return any(name.startswith(f"{kind}/") for name in self._runs)

    def tensors(self, kind: str) -> Iterator[tuple[str, Tensor]]:
        """Read every trained parameter's values of a kind, whole, by its name."""
        for name, shape in self.state.shapes.items():
            yield name, self.values(kind, name, 0, math.prod(shape)).view(shape)

    def values(self, kind: str, name: str, start: int, count: int) -> Tensor:
        """Read `count` values of a flattened parameter from `start` on.

        Raises:
            CheckpointError: they are not all there.
        """
        pieces, position, end = list[Tensor](), start, start + count
        for first, shard, key in sorted(self._runs.get(f"{kind}/{name}", []), key=lambda run: run[0]):
            stored = shard.get_slice(key)
            last = min(first + stored.get_shape()[0], end)
            if first <= position < last:
                pieces.append(stored[position - first : last - first])
                position = last
        if position < end:
            raise CheckpointError(f"{self.folder}: found {position - start} of {count} {kind} of {name} from {start}")
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces) if pieces else torch.empty(0)
