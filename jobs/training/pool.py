"""Samples of ever new seeds, drawn by processes beside the training and kept in memory to be seen again."""

import ctypes
import mmap
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
import torch
from torch import Tensor

from fireedit.platform.scenes.render import Renderer
from fireedit.platform.scenes.world import TRAIN

Draw = Callable[[Renderer, int], Mapping[str, Tensor]]
"""From a seed of the training world to one sample: tensors of fixed shapes."""
RING = 512
"""Samples that a process may have drawn and nobody fetched yet."""
ALIGNMENT = 8
"""Bytes; fields of a row begin at multiples of it."""
IDLE_S = 0.005


@dataclass(frozen=True)
class Field:
    """Where one tensor of a sample lies in its row of bytes."""

    name: str
    start: int
    bytes: int
    shape: tuple[int, ...]
    dtype: torch.dtype


class FreshPool:
    """A growing pool of samples; a batch takes those that nobody has seen first and fills up with earlier ones.

    Drawing is held back to `AHEAD` batches more than were seen: where training is the slower one, every sample is seen
    once and soon after it was drawn. Processes are forked when the pool is entered: enter it before a GPU is touched.

    Args:
        draw: makes a sample of a seed.
        workers: processes; 0 draws every sample when it is asked for, each seed once and in order.
        capacity: samples that are kept; the oldest make room.
        first: how many seeds were drawn before, in earlier sittings.
    """

    AHEAD = 8

    def __init__(self, draw: Draw, batch: int, workers: int, capacity: int, first: int = 0):
        self.draw, self.batch, self.workers = draw, batch, workers
        self.capacity, self.first = max(capacity, 2 * batch), first
        self.fields = _fields_of(draw(Renderer(), TRAIN.seeds[first]))
        self.row_bytes = self.fields[-1].start + _aligned(self.fields[-1].bytes)
        self.filled = self.seen = 0
        self._rows: Tensor | None = None
        self._renderer = Renderer() if workers == 0 else None
        context = multiprocessing.get_context("fork")
        self._made = context.RawArray(ctypes.c_int64, max(workers, 1))
        self._taken = context.RawArray(ctypes.c_int64, max(workers, 1))
        self._wanted = context.RawValue(ctypes.c_int64, self.AHEAD * batch)
        self._rings = [mmap.mmap(-1, RING * self.row_bytes) for _ in range(workers)]
        self._team = [context.Process(target=self._work, args=(number,), daemon=True) for number in range(workers)]

    def __enter__(self) -> Self:
        for process in self._team:
            process.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._team:
            process.kill()
            process.join()

    @property
    def drawn(self) -> int:
        """Seeds that are used up, those of earlier sittings included."""
        return self.first + (max(self._made) * self.workers if self.workers else self.filled)

    def take(self, device: torch.device) -> dict[str, Tensor]:
        """A batch on the device, by name [B, ...]; waits until the first one is drawn."""
        while self._collect(device) < self.batch:
            self._require_workers()
            time.sleep(IDLE_S)
        assert self._rows is not None
        fresh = min(self.filled - self.seen, self.batch)
        numbers = torch.arange(self.seen, self.seen + fresh, device=device)
        if fresh < self.batch:
            again = torch.randint(0, min(self.filled, self.capacity), (self.batch - fresh,), device=device)
            numbers = torch.cat([numbers, again])
        self.seen += fresh
        self._wanted.value = self.seen + self.AHEAD * self.batch
        rows = self._rows[numbers % self.capacity]
        return {field.name: _unpacked(rows, field) for field in self.fields}

    def _collect(self, device: torch.device) -> int:
        """Fetch what was drawn; returns how many samples there are."""
        if self._rows is None:
            self._rows = torch.zeros(self.capacity, self.row_bytes, dtype=torch.uint8, device=device)
        if self._renderer is not None:
            first = self.first + self.filled
            drawn = [_packed(self.draw(self._renderer, TRAIN.seeds[first + i]), self) for i in range(self.batch)]
            self._keep(np.stack(drawn))
        for worker, ring in enumerate(self._rings):
            rows = np.frombuffer(ring, np.uint8).reshape(RING, self.row_bytes)
            while (count := self._made[worker] - self._taken[worker]) > 0:
                start = self._taken[worker] % RING
                count = min(count, RING - start)
                if self.filled + count - self.seen > self.capacity:
                    return self.filled
                self._keep(rows[start : start + count])
                self._taken[worker] += count
        return self.filled

    def _keep(self, rows: np.ndarray) -> None:
        assert self._rows is not None
        start = self.filled % self.capacity
        head = min(len(rows), self.capacity - start)
        for begin, part in ((start, rows[:head]), (0, rows[head:])):
            self._rows[begin : begin + len(part)].copy_(torch.from_numpy(part.copy()))
        self.filled += len(rows)

    def _require_workers(self) -> None:
        dead = [process.exitcode for process in self._team if not process.is_alive()]
        if dead:
            raise RuntimeError(f"a process that draws samples ended with exit code {dead[0]}; its error stands above")

    def _work(self, worker: int) -> None:
        """Draw every `workers`-th seed into this process's ring until the trainer is gone."""
        torch.set_num_threads(1)
        os.nice(5)
        for number in (signal.SIGINT, signal.SIGTERM):  # the trainer is told to stop, and ends this process
            signal.signal(number, signal.SIG_IGN)
        parent, renderer = os.getppid(), Renderer()
        rows = np.frombuffer(self._rings[worker], np.uint8).reshape(RING, self.row_bytes)
        while os.getppid() == parent:
            made = self._made[worker]
            if made - self._taken[worker] >= RING or made * self.workers >= self._wanted.value:
                time.sleep(IDLE_S)
                continue
            seed = TRAIN.seeds[self.first + worker + made * self.workers]
            rows[made % RING] = _packed(self.draw(renderer, seed), self)
            self._made[worker] = made + 1


def _fields_of(sample: Mapping[str, Tensor]) -> list[Field]:
    fields, start = [], 0
    for name, value in sample.items():
        fields.append(Field(name, start, value.numel() * value.element_size(), tuple(value.shape), value.dtype))
        start += _aligned(fields[-1].bytes)
    return fields


def _aligned(count: int) -> int:
    return -(-count // ALIGNMENT) * ALIGNMENT


def _packed(sample: Mapping[str, Tensor], pool: FreshPool) -> np.ndarray:
    """A sample as its row of bytes."""
    row = np.zeros(pool.row_bytes, np.uint8)
    for field in pool.fields:
        value = sample[field.name]
        assert tuple(value.shape) == field.shape and value.dtype == field.dtype, (field, value.shape, value.dtype)
        row[field.start : field.start + field.bytes] = value.contiguous().flatten().view(torch.uint8).numpy()
    return row


def _unpacked(rows: Tensor, field: Field) -> Tensor:
    """One field of rows [B, bytes]."""
    packed = rows[:, field.start : field.start + field.bytes].contiguous()
    return packed.view(field.dtype).view(len(rows), *field.shape)
