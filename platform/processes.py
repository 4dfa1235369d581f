"""Processes: functions that run in one of their own, and the peak of a process's memory."""

import multiprocessing
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def in_new_process(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function in a new process, which gives all its memory back.

    Raises:
        BrokenProcessPool: the process was killed.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def peak_bytes(pid: int | None = None) -> int:
    """Read the highest resident memory of a process, this one by default.

    Linux's VmHWM begins anew with a program; ru_maxrss, of which other systems know only this process's own, begins at
    the peak of the process that started it.

    Raises:
        FileNotFoundError, ProcessLookupError: the process has ended.
        NotImplementedError: a process is named, on macOS.
    """
    if sys.platform == "darwin":
        if pid is not None:
            raise NotImplementedError(f"peak_bytes: found process {pid}; macOS tells this process's peak alone")
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    lines = Path(f"/proc/{pid or 'self'}/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)
