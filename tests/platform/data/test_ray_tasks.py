"""Ray tasks read batches on the CPUs that there are, and can be closed while there are none."""

import time

import numpy as np
import pytest
import ray

from fireedit.platform.data.ingest import IngestConfig, PreparedBatch
from fireedit.platform.data.ray_tasks import RayTasks


def read(number: int) -> PreparedBatch:
    return PreparedBatch(number, {"number": np.full(4, number)}, fetched_bytes=0, row_bytes=0)


@ray.remote(num_cpus=4)
def hold_cpus() -> None:
    time.sleep(60)


@pytest.mark.ray
def test_tasks_that_wait_for_a_cpu_do_not_hold_up_the_others(ray_session: None) -> None:
    """Ray has four CPUs, and each of three tasks takes three."""
    tasks = RayTasks(read, IngestConfig(tasks=3, cpus_per_task=3))
    batches = [tasks.submit(number) for number in range(9)]
    assert [int(batch.result(timeout=60).columns["number"][0]) for batch in batches] == list(range(9))
    tasks.close()


@pytest.mark.ray
def test_tasks_that_wait_for_a_cpu_can_be_closed(ray_session: None) -> None:
    held = hold_cpus.remote()
    tasks = RayTasks(read, IngestConfig(tasks=2))
    batches = [tasks.submit(number) for number in range(4)]
    with pytest.raises(TimeoutError):
        batches[0].result(timeout=2)
    began = time.monotonic()
    tasks.close()
    assert time.monotonic() - began < 5
    assert batches[0].exception() is not None and batches[3].cancelled()
    ray.cancel(held, force=True)
