"""Tasks of Ray that read a worker's batches, on any node that has free CPUs, its own first."""

import functools
import threading
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor

import ray
from ray import ObjectRef

from fireedit.platform.data.ingest import IngestConfig, PreparedBatch, ReadBatch

POLL_S = 0.2
"""Seconds after which closing is noticed by a thread that waits for its task, or for a CPU for it."""
READERS = 16
"""Workers whose shards and tokenizers a task's process keeps open; Ray gives it tasks of one and another."""


class RayTasks:
    """Reads batches in Ray tasks, `config.tasks` at a time; a task whose node is lost runs again on another."""

    def __init__(self, read: ReadBatch, config: IngestConfig):
        self._reader, self._task = ray.put(read), _read_batch.options(num_cpus=config.cpus_per_task)
        self._closed, self._threads = threading.Event(), ThreadPoolExecutor(config.tasks)

    def submit(self, number: int) -> Future[PreparedBatch]:
        return self._threads.submit(self._run, number)

    def close(self) -> None:
        self._closed.set()
        self._threads.shutdown(cancel_futures=True)

    def _run(self, number: int) -> PreparedBatch:
        """Run a task and wait for it in this thread."""
        task = self._task.remote([self._reader], number)  # in a list, since Ray would unpickle it for every task
        while not ray.wait([task], timeout=POLL_S)[0]:
            if self._closed.is_set():
                ray.cancel(task)
                raise CancelledError
        return ray.get(task)


@ray.remote
def _read_batch(reader: list[ObjectRef], number: int) -> PreparedBatch:
    return _opened(reader[0])(number)


@functools.lru_cache(maxsize=READERS)
def _opened(reader: ObjectRef) -> ReadBatch:
    return ray.get(reader)
