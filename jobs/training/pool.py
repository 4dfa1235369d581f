"""In-memory pool of samples of fresh seeds, drawn by worker processes during training."""

import ctypes
import mmap
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor

from fireedit.platform.scenes.world import TRAIN

RING = 512
"""Capacity, in samples, of the ring buffer of each worker process."""
IDLE_S = 0.005
"""Sleep between two looks at a ring buffer."""


class SamplePool:
    """A growing pool of samples; a batch takes unused ones first and is filled up with earlier ones.

    Workers stay at most `AHEAD` batches ahead of training: where training is slower than drawing, every sample is
    used once and soon after it was drawn. Processes are forked when the pool is entered: enter it before CUDA starts.

    Args:
        draw: makes the sample of a seed of the training world: tensors of fixed shapes by name.
        workers: processes; 0 draws the samples of a batch when it is taken, each seed once and in order.
        capacity: samples in memory; the oldest are overwritten.
        first: number of seeds drawn in earlier runs.
    """

    AHEAD = 8

    def __init__(
        self, draw: Callable[[int], Mapping[str, Tensor]], batch: int, workers: int, capacity: int, first: int = 0
    ):
        self.draw, self.batch, self.workers = draw, batch, workers
        self.capacity, self.first = max(capacity, 2 * batch), first
        self.filled = self.used = 0
        self._example = draw(TRAIN.seeds[first])
        self._samples: dict[str, Tensor] = {}
        context = multiprocessing.get_context("fork")
        self._drawn = context.RawArray(ctypes.c_int64, max(workers, 1))
        self._fetched = context.RawArray(ctypes.c_int64, max(workers, 1))
        self._limit = context.RawValue(ctypes.c_int64, self.AHEAD * batch)
        self._rings = [{name: _shared(value) for name, value in self._example.items()} for _ in range(workers)]
        self._processes = [context.Process(target=self._work, args=(number,), daemon=True) for number in range(workers)]

    def __enter__(self) -> Self:
        for process in self._processes:
            process.start()
        return self

    def __exit__(self, *_: Any) -> None:
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
            exit_codes = [process.exitcode for process in self._processes if not process.is_alive()]
            if exit_codes:
                raise RuntimeError(f"a sample worker ended with exit code {exit_codes[0]}; its error is printed above")
            time.sleep(IDLE_S)
        fresh = min(self.filled - self.used, self.batch)
        numbers = torch.arange(self.used, self.used + fresh, device=device)
        if fresh < self.batch:
            repeated = torch.randint(0, min(self.filled, self.capacity), (self.batch - fresh,), device=device)
            numbers = torch.cat([numbers, repeated])
        self.used += fresh
        self._limit.value = self.used + self.AHEAD * self.batch
        return {name: samples[numbers % self.capacity] for name, samples in self._samples.items()}

    def _collect(self, device: torch.device) -> int:
        """Copy drawn samples from the ring buffers; returns the number of samples drawn so far."""
        if not self._samples:
            shapes = {name: (self.capacity, *value.shape) for name, value in self._example.items()}
            self._samples = {name: x.new_zeros(shapes[name], device=device) for name, x in self._example.items()}
        if self.workers == 0:
            first = self.first + self.filled
            samples = [self.draw(seed) for seed in TRAIN.seeds[first : first + self.batch]]
            self._store({name: torch.stack([sample[name] for sample in samples]) for name in self._example})
        for worker, ring in enumerate(self._rings):
            while (count := self._drawn[worker] - self._fetched[worker]) > 0:
                start = self._fetched[worker] % RING
                count = min(count, RING - start)
                if self.filled + count - self.used > self.capacity:
                    return self.filled
                self._store({name: values[start : start + count] for name, values in ring.items()})
                self._fetched[worker] += count
        return self.filled

    def _store(self, drawn: Mapping[str, Tensor]) -> None:
        """Write samples over the oldest ones."""
        count = len(next(iter(drawn.values())))
        places = torch.arange(self.filled, self.filled + count) % self.capacity
        for name, values in drawn.items():
            samples = self._samples[name]
            samples[places.to(samples.device)] = values.to(samples.device)
        self.filled += count

    def _work(self, worker: int) -> None:
        """Draw every `workers`-th seed into this process's ring buffer until the trainer has ended."""
        torch.set_num_threads(1)
        os.nice(5)
        for number in (signal.SIGINT, signal.SIGTERM):  # handled by the trainer, which ends this process
            signal.signal(number, signal.SIG_IGN)
        parent = os.getppid()
        while os.getppid() == parent:
            drawn = self._drawn[worker]
            if drawn - self._fetched[worker] >= RING or drawn * self.workers >= self._limit.value:
                time.sleep(IDLE_S)
                continue
            seed = TRAIN.seeds[self.first + worker + drawn * self.workers]
            for name, value in self.draw(seed).items():
                self._rings[worker][name][drawn % RING] = value
            self._drawn[worker] = drawn + 1


def _shared(value: Tensor) -> Tensor:
    """Allocate a ring buffer of tensors like `value`, in memory that forked processes share."""
    memory = mmap.mmap(-1, RING * value.nbytes)
    return torch.frombuffer(memory, dtype=value.dtype).view(RING, *value.shape)
