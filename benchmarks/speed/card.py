"""Roofline of a card: what it really multiplies and copies in a second, and its clock for everything else."""

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from fireedit.platform.train.devices import peak_flops

REPEATS = 10


@dataclass(frozen=True)
class Roofline:
    """Measured speeds of a device."""

    matmul_flops: float
    """Operations a second of a large product in the precision of the weights."""
    copy_bytes: float
    """Bytes read and written a second by a large copy."""
    peak_flops: float | None
    """Operations a second of the data sheet; None for a device that is not known."""


def name_of(device: torch.device) -> str:
    """Name a device as its results are filed, such as `NVIDIA-H200` or `cpu`."""
    return torch.cuda.get_device_name(device).replace(" ", "-") if device.type == "cuda" else device.type


def wait_for(device: torch.device) -> None:
    """Wait until a device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Callable[[], object], device: torch.device, repeats: int = 1) -> float:
    """Measure the median seconds of a call with all its work on the device."""
    taken = []
    for _ in range(repeats):
        wait_for(device)
        begun = time.perf_counter()
        work()
        wait_for(device)
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def measure_roofline(device: torch.device, dtype: torch.dtype, side: int, copied: int) -> Roofline:
    """Multiply two matrices of `side` and copy `copied` bytes, after one call that warms up."""
    left, right = torch.randn(2, side, side, device=device, dtype=dtype)
    block = torch.empty(copied, dtype=torch.uint8, device=device)
    target = torch.empty_like(block)
    speeds = []
    for work in (lambda: torch.mm(left, right), lambda: target.copy_(block)):
        work()
        speeds.append(seconds_of(work, device, REPEATS))
    return Roofline(2 * side**3 / speeds[0], 2 * copied / speeds[1], peak_flops(device))


def peak_gib(device: torch.device) -> float | None:
    """Read the peak memory since `restart_peak`, in GiB; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None


def reserved_gib(device: torch.device) -> float | None:
    """Read the peak of the memory that torch held since `restart_peak`, pools of CUDA graphs too, in GiB."""
    return torch.cuda.max_memory_reserved(device) / 2**30 if device.type == "cuda" else None


def restart_peak(device: torch.device) -> None:
    """Begin a new peak of memory, with what nobody holds given back."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
