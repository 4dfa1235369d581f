"""In-memory pool of samples of fresh seeds, drawn by worker processes during training."""

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

from fireedit.platform.scenes.world import TRAIN

Draw = Callable[[int], Mapping[str, Tensor]]
"""Function from a seed of the training world to one sample: tensors of fixed shapes by name."""
RING = 512
"""Capacity, in samples, of the ring buffer of each worker process."""
ALIGNMENT = 8
"""Bytes; fields of a row begin at multiples of it."""
IDLE_S = 0.005
"""Sleep between two looks at a ring buffer."""


@dataclass(frozen=True)
class PackedField:
    """Location of one tensor of a sample in its row of bytes."""

    name: str
    start: int
    bytes: int
    shape: tuple[int, ...]
    dtype: torch.dtype


class SamplePool:
    """A growing pool of samples; a batch takes unused ones first and is filled up with earlier ones.

    Workers stay at most `AHEAD` batches ahead of training: where training is slower than drawing, every sample is
    used once and soon after it was drawn. Processes are forked when the pool is entered: enter it before CUDA starts.

    Args:
        draw: makes the sample of a seed.
        workers: processes; 0 draws the samples of a batch when it is taken, each seed once and in order.
        capacity: samples in memory; the oldest are overwritten.
        first: number of seeds drawn in earlier runs.
    """

    AHEAD = 8

    def __init__(self, draw: Draw, batch: int, workers: int, capacity: int, first: int = 0):
        self.draw, self.batch, self.workers = draw, batch, workers
        self.capacity, self.first = max(capacity, 2 * batch), first
        self.fields = _fields_of(draw(TRAIN.seeds[first]))
        self.row_bytes = self.fields[-1].start + _aligned(self.fields[-1].bytes)
        self.filled = self.used = 0
        self._rows: Tensor | None = None
        context = multiprocessing.get_context("fork")
        self._drawn = context.RawArray(ctypes.c_int64, max(workers, 1))
        self._fetched = context.RawArray(ctypes.c_int64, max(workers, 1))
        self._limit = context.RawValue(ctypes.c_int64, self.AHEAD * batch)
        self._ring_buffers = [mmap.mmap(-1, RING * self.row_bytes) for _ in range(workers)]
        self._processes = [context.Process(target=self._work, args=(number,), daemon=True) for number in range(workers)]

    def __enter__(self) -> Self:
        for process in self._processes:
            process.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.kill()
            process.join()

    @property
    def drawn(self) -> int:
        """Number of seeds used so far, earlier runs included."""
        return self.first + (max(self._drawn) * self.workers if self.workers else self.filled)

    def take(self, device: torch.device) -> dict[str, Tensor]:
        """Return a batch on the device, by name [B, ...]; wait until the first one is drawn."""
        while self._collect(device) < self.batch:
            self._require_workers()
            time.sleep(IDLE_S)
        assert self._rows is not None
        fresh = min(self.filled - self.used, self.batch)
        numbers = torch.arange(self.used, self.used + fresh, device=device)
        if fresh < self.batch:
            repeated = torch.randint(0, min(self.filled, self.capacity), (self.batch - fresh,), device=device)
            numbers = torch.cat([numbers, repeated])
        self.used += fresh
        self._limit.value = self.used + self.AHEAD * self.batch
        rows = self._rows[numbers % self.capacity]
        return {field.name: _unpack(rows, field) for field in self.fields}

    def _collect(self, device: torch.device) -> int:
        """Copy drawn samples from the ring buffers; returns the number of samples drawn so far."""
        if self._rows is None:
            self._rows = torch.zeros(self.capacity, self.row_bytes, dtype=torch.uint8, device=device)
        if self.workers == 0:
            first = self.first + self.filled
            samples = [_pack(self.draw(TRAIN.seeds[first + i]), self) for i in range(self.batch)]
            self._store(np.stack(samples))
        for worker, ring in enumerate(self._ring_buffers):
            rows = np.frombuffer(ring, np.uint8).reshape(RING, self.row_bytes)
            while (count := self._drawn[worker] - self._fetched[worker]) > 0:
                start = self._fetched[worker] % RING
                count = min(count, RING - start)
                if self.filled + count - self.used > self.capacity:
                    return self.filled
                self._store(rows[start : start + count])
                self._fetched[worker] += count
        return self.filled

    def _store(self, rows: np.ndarray) -> None:
        assert self._rows is not None
        start = self.filled % self.capacity
        head = min(len(rows), self.capacity - start)
        for begin, chunk in ((start, rows[:head]), (0, rows[head:])):
            self._rows[begin : begin + len(chunk)].copy_(torch.from_numpy(chunk.copy()))
        self.filled += len(rows)

    def _require_workers(self) -> None:
        exit_codes = [process.exitcode for process in self._processes if not process.is_alive()]
        if exit_codes:
            raise RuntimeError(f"a sample worker ended with exit code {exit_codes[0]}; its error is printed above")

    def _work(self, worker: int) -> None:
        """Draw every `workers`-th seed into this process's ring buffer until the trainer has ended."""
        torch.set_num_threads(1)
        os.nice(5)
        for number in (signal.SIGINT, signal.SIGTERM):  # handled by the trainer, which ends this process
            signal.signal(number, signal.SIG_IGN)
        parent = os.getppid()
        rows = np.frombuffer(self._ring_buffers[worker], np.uint8).reshape(RING, self.row_bytes)
        while os.getppid() == parent:
            drawn = self._drawn[worker]
            if drawn - self._fetched[worker] >= RING or drawn * self.workers >= self._limit.value:
                time.sleep(IDLE_S)
                continue
            seed = TRAIN.seeds[self.first + worker + drawn * self.workers]
            rows[drawn % RING] = _pack(self.draw(seed), self)
            self._drawn[worker] = drawn + 1


def _fields_of(sample: Mapping[str, Tensor]) -> list[PackedField]:
    """Lay out the tensors of a sample in a row of bytes."""
    fields, start = [], 0
    for name, value in sample.items():
        fields.append(PackedField(name, start, value.numel() * value.element_size(), tuple(value.shape), value.dtype))
        start += _aligned(fields[-1].bytes)
    return fields


def _aligned(count: int) -> int:
    return -(-count // ALIGNMENT) * ALIGNMENT


def _pack(sample: Mapping[str, Tensor], pool: SamplePool) -> np.ndarray:
    """Serialize a sample as a row of bytes."""
    row = np.zeros(pool.row_bytes, np.uint8)
    for field in pool.fields:
        value = sample[field.name]
        assert tuple(value.shape) == field.shape and value.dtype == field.dtype, (field, value.shape, value.dtype)
        row[field.start : field.start + field.bytes] = value.contiguous().flatten().view(torch.uint8).numpy()
    return row


def _unpack(rows: Tensor, field: PackedField) -> Tensor:
    """Read one field of rows, uint8 [B, bytes]."""
    packed = rows[:, field.start : field.start + field.bytes].contiguous()
    return packed.view(field.dtype).view(len(rows), *field.shape)
