"""Measurements of processes: CPU time, memory, open files, and items that come from a new process."""

import contextlib
import multiprocessing
import os
import traceback
from collections.abc import Callable, Collection, Generator, Iterable, Mapping
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

import psutil

from fireedit.platform.processes import peak_bytes

T = TypeVar("T")
EXIT_S = 10.0
"""Seconds in which a process that has done its work may end by itself."""


class ProcessFailedError(RuntimeError):
    """Failure of a function in a process of its own: the kind of the error and the first line of its message.

    Args:
        details: whole traceback.
    """

    def __init__(self, summary: str, details: str):
        super().__init__(summary, details)
        self.details = details

    def __str__(self) -> str:
        return str(self.args[0])

    @classmethod
    def of(cls, error: BaseException) -> "ProcessFailedError":
        """Describe an error."""
        lines = str(error).splitlines() or [""]
        return cls(f"{type(error).__name__}: {lines[0]}", "".join(traceback.format_exception(error)))


def items_of(function: Callable[..., Iterable[T]], *arguments: Any, wait_s: Callable[[], float]) -> Generator[T]:
    """Iterate over what a function yields in a new process, each item as soon as it is there.

    The process is killed if it outlasts the iterator, and so are its descendants, those too whose parent has died. Of a
    process that dies by itself, these are the ones that it had at its last item. What they print goes to stderr.

    Args:
        wait_s: returns the seconds to wait for the next item; called before each.
    Raises:
        TimeoutError: the next item did not come in time.
        ProcessFailedError: the function failed, or its process died.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_items, args=(sender, function, arguments))
    process.start()
    sender.close()
    root = psutil.Process(process.pid)
    descendants, ends = set[psutil.Process](), False
    try:
        while receiver.poll(max(wait_s(), 0.0)):
            item, failure, ends = receiver.recv()
            descendants |= _descendants(root)
            if failure is not None:
                raise failure
            if ends:
                return
            yield item
        raise TimeoutError(f"{function.__name__}: the next item did not come in time")
    except EOFError:
        descendants |= _descendants(root)
        process.join(EXIT_S)
        words = f"its process ended with exit code {process.exitcode}"
        raise ProcessFailedError(words, f"{words}; what it printed is on stderr") from None
    finally:
        receiver.close()
        _end(process, [root, *descendants, *_descendants(root)], EXIT_S if ends else 0.0)


def _send_items(sender: Connection, function: Callable[..., Iterable[Any]], arguments: Iterable[Any]) -> None:
    """Send triples of an item, a failure, and whether it is the last."""
    os.dup2(2, 1)
    try:
        for item in function(*arguments):
            sender.send((item, None, False))
    except Exception as error:
        traceback.print_exc()
        sender.send((None, ProcessFailedError.of(error), True))
    else:
        sender.send((None, None, True))


def _descendants(process: psutil.Process) -> set[psutil.Process]:
    """List the descendants of a process; none if it has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return set(process.children(recursive=True))
    return set()


def _end(process: BaseProcess, members: Collection[psutil.Process], within_s: float) -> None:
    """Let a process end by itself for so long, then kill the members of its family that still run, and wait for it."""
    process.join(within_s)
    for member in members:
        with contextlib.suppress(psutil.NoSuchProcess):  # raised too if another process has got the id
            member.kill()
    process.join(EXIT_S)
    psutil.wait_procs([member for member in members if member.pid != process.pid], timeout=EXIT_S)


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
