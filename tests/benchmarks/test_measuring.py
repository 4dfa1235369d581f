"""Items of a process of its own come as they are made, whatever ends it."""

import os
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
    assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids)


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
