"""Items of a process of its own come as they are made, whatever ends it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from fireedit.benchmarks.measuring import ProcessFailedError, items_of


def hangs() -> Iterator[int]:
    """Yield the ids of a process and of its child, then nothing for long."""
    yield os.getpid()
    yield subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True).pid
    time.sleep(60)


def runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"


def ends(word: str) -> Iterator[str]:
    yield word
    if word == "dies":
        os._exit(3)
    raise RuntimeError("out of memory\nand more")


def test_a_process_that_hangs_is_killed_with_its_children() -> None:
    pids = list[int]()
    with pytest.raises(TimeoutError):
        for pid in items_of(hangs, wait_s=lambda: 20.0 if len(pids) < 2 else 0.1):
            pids.append(pid)
    assert len(pids) == 2 and os.getpid() not in pids
    assert not any(runs(pid) for pid in pids)


def test_children_of_a_process_that_died_by_itself_are_killed() -> None:
    items = items_of(hangs, wait_s=lambda: 20.0)
    root, child = next(items), next(items)
    os.kill(root, signal.SIGKILL)
    with pytest.raises(ProcessFailedError, match="exit code -9"):
        next(items)
    deadline = time.monotonic() + 10
    while runs(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not runs(child)


@pytest.mark.parametrize(
    ("word", "summary", "details"),
    [
        ("fails", "RuntimeError: out of memory", "in ends"),
        ("dies", "its process ended with exit code 3", "stderr"),
    ],
)
def test_what_ended_a_process_is_told(word: str, summary: str, details: str) -> None:
    items = items_of(ends, word, wait_s=lambda: 20.0)
    assert next(items) == word
    with pytest.raises(ProcessFailedError, match=f"^{summary}$") as failure:
        next(items)
    assert details in failure.value.details
