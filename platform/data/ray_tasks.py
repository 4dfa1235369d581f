"""Tasks of Ray that read a worker's batches, on any node that has free CPUs, its own first."""

import hashlib
import threading
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor

import ray
from ray import ObjectRef, cloudpickle

from fireedit.platform.data.ingest import IngestConfig, PreparedBatch, ReadBatch

POLL_S = 0.2
"""Seconds that closing waits for a task that still runs, or for which there is no CPU."""

_readers: dict[str, ReadBatch] = {}
"""Reader of this process by the hash of its pickle: workers of a run have the same one."""


class RayTasks:
    """Reads batches in Ray tasks, `config.tasks` at a time; a task whose node is lost runs again on another."""

    def __init__(self, read: ReadBatch, config: IngestConfig):
        pickled = cloudpickle.dumps(read)
        self._key, self._pickled = hashlib.blake2b(pickled).hexdigest(), ray.put(pickled)
        self._task = _read_batch.options(num_cpus=config.cpus_per_task)
        self._closed, self._threads = threading.Event(), ThreadPoolExecutor(config.tasks)

    def submit(self, number: int) -> Future[PreparedBatch]:
        return self._threads.submit(self._run, number)

    def close(self) -> None:
        self._closed.set()
        self._threads.shutdown(cancel_futures=True)

    def _run(self, number: int) -> PreparedBatch:
        """Run a task and wait for it in this thread."""
        task = self._task.remote(self._key, [self._pickled], number)
        while not ray.wait([task], timeout=POLL_S)[0]:
            if self._closed.is_set():
                ray.cancel(task)
                raise CancelledError
        return ray.get(task)


@ray.remote
def _read_batch(key: str, pickled: list[ObjectRef], number: int) -> PreparedBatch:
    if key not in _readers:
        _readers.clear()
        _readers[key] = cloudpickle.loads(ray.get(pickled[0]))
    return _readers[key](number)
