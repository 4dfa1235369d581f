"""The place of a process among those that train together: its rank, its checkpoints and the wish to stop.

`RaySession` (launcher.py) is that of a worker of Ray Train, `LocalSession` that of a process of torchrun, or of one
that trains alone. The training loop knows no other difference between them.
"""

import os
import signal
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from fireedit.platform import storage
from fireedit.platform.console import say
from fireedit.platform.train import checkpoints

T = TypeVar("T")
Write = Callable[[str], None]
"""Writes this worker's part of a checkpoint to a folder's address; may run in a thread."""
POLL_S = 2.0
"""Seconds between two looks for a run's stop file."""


class Session(Protocol):
    """Interface of a session; workers call the same methods in the same order."""

    rank: int
    workers: int
    control: "Control"

    def latest(self) -> str | None:
        """Find the newest complete checkpoint's address, the same on all workers."""

    def save(self, step: int, write: Write, row: Mapping[str, float], validate: bool = False) -> None:
        """Write a checkpoint while training goes on, once `wait` has seen to the one before.

        Args:
            row: report of the step.
            validate: evaluate the checkpoint, where the session can.
        """

    def stop_reason(self) -> str:
        """Say why this worker should save and end now; empty if it should not.

        Raises:
            OSError: the checkpoint that is being written cannot be.
        """

    def leaves_soon(self) -> bool:
        """Check whether a node of the run is about to go, so that a checkpoint should be saved now."""

    def wait(self) -> None:
        """Wait until all workers have written their part of the last checkpoint."""


class Control:
    """Agreements among workers over their CPUs, so that no GPU has to finish its queue for them."""

    def __init__(self) -> None:
        apart = dist.get_world_size() > 1 and dist.get_backend() != "gloo"
        self._group = dist.new_group(backend="gloo") if apart else None

    def first(self, value: T) -> T:
        """Broadcast the first worker's value."""
        values = [value]
        dist.broadcast_object_list(values, group=self._group)
        return values[0]

    def barrier(self) -> None:
        """Wait for all workers."""
        dist.barrier(group=self._group)

    def total(self, values: Tensor) -> Tensor:
        """Sum a tensor over the workers, in float32 on the CPU."""
        summed = values.detach().float().cpu()
        dist.all_reduce(summed, group=self._group)
        return summed

    def mean(self, values: Mapping[str, Any]) -> dict[str, float]:
        """Average numbers over the workers, by name."""
        stacked = torch.stack([torch.as_tensor(value).detach().float() for value in values.values()])
        return dict(zip(values, (self.total(stacked) / dist.get_world_size()).tolist(), strict=True))


class StopFile:
    """A run's file `stop`, whose appearance asks the run to save and end; a thread looks for it."""

    def __init__(self, path: str):
        self.path, self._found = path, threading.Event()
        self._ended = threading.Event()
        threading.Thread(target=self._look, daemon=True).start()

    @property
    def found(self) -> bool:
        return self._found.is_set()

    def close(self) -> None:
        """End the thread."""
        self._ended.set()

    def _look(self) -> None:
        while not self._ended.wait(POLL_S):
            if storage.exists(self.path):
                self._found.set()
                return


class LocalSession:
    """Session of a process of torchrun, or of one that trains alone; `SIGTERM` and Ctrl-C ask it to save and end.

    Args:
        folder: the run's folder of checkpoints.
        keep: complete checkpoints that are kept.
        stop_file: file whose appearance asks the run to save and end; one of an earlier sitting is removed.
    """

    def __init__(self, folder: str, keep: int, stop_file: str):
        self.rank, self.workers = dist.get_rank(), dist.get_world_size()
        self.folder, self.keep = folder, keep
        self.validate: Callable[[str], object] | None = None
        """Evaluates the checkpoint at an address, on the first worker while the others wait; must not raise."""
        self.control = Control()
        if self.rank == 0:
            storage.remove_file(stop_file)
        self.control.barrier()
        self._stop_file, self._signals = StopFile(stop_file), list[int]()
        self._writer, self._pending = ThreadPoolExecutor(1), Future[None]()
        self._pending.set_result(None)
        self._handlers = {
            number: signal.signal(number, lambda number, _: self._signals.append(number))
            for number in (signal.SIGTERM, signal.SIGINT)
        }

    def latest(self) -> str | None:
        if self.rank == 0:
            checkpoints.remove_others(self.folder, self.keep)
        return self.control.first(checkpoints.latest(self.folder) if self.rank == 0 else None)

    def save(self, step: int, write: Write, row: Mapping[str, float], validate: bool = False) -> None:
        address = checkpoints.path_of(self.folder, step)
        self._pending = self._writer.submit(write, address)
        if validate and self.validate is not None:
            self.wait()
            if self.rank == 0:
                self.validate(address)
            self.control.barrier()

    def stop_reason(self) -> str:
        if self._pending.done():
            self._pending.result()  # raises what kept a checkpoint from being written
        return "the stop file" if self._stop_file.found else "a signal" if self._signals else ""

    def leaves_soon(self) -> bool:
        return False

    def wait(self) -> None:
        self._pending.result()
        self.control.barrier()
        if self.rank == 0:
            checkpoints.remove_others(self.folder, self.keep, writing=True)  # others may begin the next one

    def close(self) -> None:
        """Give signals back to those who handled them before."""
        self._stop_file.close()
        self._writer.shutdown()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)


@contextmanager
def process_group(gpus: bool) -> Iterator[Control]:
    """Join the process group of torchrun, or make one of this process alone, for the block."""
    alone = "RANK" not in os.environ
    backend = "nccl" if gpus else "gloo"
    if gpus:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if alone:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    else:
        dist.init_process_group(backend)
    try:
        yield Control()
    finally:
        dist.destroy_process_group()


@contextmanager
def local_session(folder: str, keep: int, stop_file: str) -> Iterator[LocalSession]:
    """Open the session of this process in its process group for the block."""
    session = LocalSession(folder, keep, stop_file)
    try:
        yield session
    finally:
        session.close()


def attempt_name() -> str:
    """Make a name for an attempt at a checkpoint."""
    return uuid.uuid4().hex[:8]


def tell_stop(path: str) -> None:
    """Write a run's stop file, so that all its workers save and end."""
    say("stopping: the run saves a checkpoint and ends; the same command resumes it")
    storage.write_bytes(path, b"")
