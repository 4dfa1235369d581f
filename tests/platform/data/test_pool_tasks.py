"""A pool's processes end with their trainer, not before it, and a killed one is an error at once."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import psutil
import pytest

from fireedit.platform.data.ingest import (
    Corpora,
    IngestConfig,
    IngestError,
    PreparedBatch,
    ReadBatch,
    Share,
    prepared_batches,
)
from fireedit.platform.data.pool_tasks import PoolTasks
from fireedit.platform.data.sample import Sample
from fireedit.platform.data.shards import Index, Shard, write_index, write_samples

ROOT = Path(__file__).parents[3]
TRAINER = """
import os, signal, sys

sys.modules["ray"] = None

from fireedit.platform.data.ingest import Corpora, IngestConfig, Share, prepared_batches
from fireedit.platform.data.pool_tasks import PoolTasks


def prepare(sample):
    return {"id": sample["id"], "pid": os.getpid()}


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    config = IngestConfig(tasks=1, prefetch_batches=1, cache_folder=f"{sys.argv[1]}/row-groups")
    corpora = Corpora(sys.argv[1], {"captions": 1.0}, 0, config)
    for batch in prepared_batches(corpora, Share(0, 1, 2, 0, None), prepare, ValueError, sys.argv[1], 8, PoolTasks):
        print(*batch.columns["pid"], *batch.columns["id"], flush=True)
        sys.stdin.readline()
"""
"""Program without Ray that prints a batch, the process that read it first, for every line that it gets."""


@pytest.fixture
def root(tmp_path: Path) -> str:
    samples = [Sample(id=f"captions/{number}", corpus="captions", task="caption") for number in range(40)]
    write_samples(str(tmp_path / "captions"), "000000-000", samples)
    write_index(str(tmp_path / "captions"), Index("captions", "train", "", [Shard("000000-000", 40)]))
    return str(tmp_path)


@pytest.fixture
def trainer(root: str, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    (tmp_path / "trainer.py").write_text(TRAINER)
    command, path = [sys.executable, str(tmp_path / "trainer.py"), root], {"PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, env=os.environ | path, start_new_session=True) as process:
        yield process
        process.kill()


def next_line(trainer: subprocess.Popen[str]) -> list[str]:
    assert trainer.stdin is not None and trainer.stdout is not None
    line = trainer.stdout.readline().split()
    assert line, "the trainer has ended"
    trainer.stdin.write("\n")
    trainer.stdin.flush()
    return line


def test_processes_end_with_their_trainer_and_not_before(trainer: subprocess.Popen[str]) -> None:
    """They outlive the SIGTERM that torchrun sends to the trainer's whole group, and Ray is never imported."""
    pid, _, *ids = next_line(trainer)
    assert int(pid) != trainer.pid and len(ids) == 2
    reader = psutil.Process(int(pid))
    os.killpg(trainer.pid, signal.SIGTERM)
    assert {next_line(trainer)[0] for _ in range(5)} == {pid}, "more than is read ahead"
    trainer.kill()
    deadline = time.monotonic() + 10
    while reader.is_running() and reader.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def prepare(sample: Mapping[str, Any]) -> dict[str, Any]:
    if sample["id"] == "captions/7":
        os.kill(os.getpid(), signal.SIGKILL)
    return {"id": sample["id"]}


def test_a_process_that_is_killed_is_an_error_at_once(root: str, tmp_path: Path) -> None:
    config = IngestConfig(tasks=2, cache_folder=str(tmp_path / "row-groups"))
    corpora, share = Corpora(root, {"captions": 1.0}, 0, config), Share(0, 1, 4, 0, None)
    batches = prepared_batches(corpora, share, prepare, ValueError, str(tmp_path / "bad"), 8, PoolTasks)
    with pytest.raises(IngestError, match="a decoding process was killed.*smaller ingest.tasks"):
        list(batches)
    assert not multiprocessing.active_children()


def test_a_process_that_was_killed_between_two_batches_is_the_same_error(root: str, tmp_path: Path) -> None:
    """The pool then refuses the next batch, before it is asked for a result."""

    class Tasks:
        def __init__(self, read: ReadBatch, _: IngestConfig):
            self.read = read

        def submit(self, number: int) -> Future[PreparedBatch]:
            if number:
                raise BrokenProcessPool
            (done := Future[PreparedBatch]()).set_result(self.read(number))
            return done

        def close(self) -> None: ...

    config = IngestConfig(tasks=1, cache_folder=str(tmp_path / "row-groups"))
    corpora, share = Corpora(root, {"captions": 1.0}, 0, config), Share(0, 1, 4, 0, None)
    batches = prepared_batches(
        corpora, share, lambda sample: {"id": sample["id"]}, ValueError, str(tmp_path / "bad"), 8, Tasks
    )
    with pytest.raises(IngestError, match="a decoding process was killed"):
        list(batches)
