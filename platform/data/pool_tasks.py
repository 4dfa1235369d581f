"""Processes of a pool that read a worker's batches: for runs without Ray."""

import multiprocessing
import os
import threading
from concurrent.futures import Future, ProcessPoolExecutor

from fireedit.platform.data.ingest import IngestConfig, PreparedBatch, ReadBatch

_readers: list[ReadBatch] = []
"""Reader of this process, if it is one of a pool's."""


class PoolTasks:
    """Reads batches in `config.tasks` new processes of this machine, which import the main module of this one."""

    def __init__(self, read: ReadBatch, config: IngestConfig):
        spawned = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(config.tasks, mp_context=spawned, initializer=_begin, initargs=(read,))

    def submit(self, number: int) -> Future[PreparedBatch]:
        return self._pool.submit(_read_batch, number)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


def _begin(read: ReadBatch) -> None:
    """Prepare this process: it ends with the trainer, and not before.

    A signal to the trainer's group, such as torchrun's SIGTERM or Ctrl-C, does not reach a session of its own: the
    trainer still finishes its step.
    """
    os.setsid()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _readers.append(read)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _read_batch(number: int) -> PreparedBatch:
    return _readers[0](number)
