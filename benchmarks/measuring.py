"""Measurements of processes: CPU time, memory, open files, and functions that run in a process of their own."""

import contextlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import psutil

from fireedit.platform.processes import in_new_process as in_new_process
from fireedit.platform.processes import peak_bytes

T = TypeVar("T")


def family() -> list[psutil.Process]:
    """List this process and its descendants."""
    process = psutil.Process()
    return [process, *process.children(recursive=True)]


def cpu_seconds(processes: Iterable[psutil.Process]) -> dict[int, float]:
    """Read the CPU seconds of processes, by process id."""
    return _read(processes, lambda process: sum(process.cpu_times()[:2]))


def cpu_since(before: Mapping[int, float], processes: Iterable[psutil.Process]) -> float:
    """Sum up the CPU seconds that processes have used since an earlier reading."""
    return sum(after - before.get(pid, 0.0) for pid, after in cpu_seconds(processes).items())


def memory_mb(processes: Iterable[psutil.Process]) -> float:
    """Sum up the memory of processes, shared pages counted once."""
    return sum(_read(processes, lambda process: process.memory_full_info().pss).values()) / 1e6


def own_memory_mb(processes: Iterable[psutil.Process]) -> float:
    """Sum up the memory of processes without pages of files, whose share changes with what else the machine runs."""
    return sum(_read(processes, _anonymous_mb).values())


def _anonymous_mb(process: psutil.Process) -> float:
    lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("Pss_Anon")), 0.0)


def open_files(processes: Iterable[psutil.Process]) -> int:
    """Count the open file descriptors of processes."""
    return sum(_read(processes, lambda process: process.num_fds()).values())


def restart_peaks(processes: Iterable[psutil.Process]) -> dict[int, float]:
    """Let the kernel forget the peaks of resident memory; returns the memory that is resident now, MB by process id."""

    def restart(process: psutil.Process) -> float:
        Path(f"/proc/{process.pid}/clear_refs").write_text("5")
        return process.memory_info().rss / 1e6

    return _read(processes, restart)


def peak_growth_mb(resident: Mapping[int, float], processes: Iterable[psutil.Process]) -> float:
    """Sum up the growth of each process to its own peak since `restart_peaks`: at least that of all at any one time."""
    return sum(max(0.0, peak - resident.get(pid, 0.0)) for pid, peak in _read(processes, _peak_mb).items())


def _peak_mb(process: psutil.Process) -> float:
    return peak_bytes(process.pid) / 1e6


def _read(processes: Iterable[psutil.Process], value: Callable[[psutil.Process], T]) -> dict[int, T]:
    """Read a value of each process that still runs, by process id."""
    values = {}
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError, ProcessLookupError):
            values[process.pid] = value(process)
    return values
