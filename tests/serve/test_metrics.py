"""Metrics are exported as Prometheus reads them, nothing is done where Ray does not run, and logs name the request."""

import inspect
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fireedit.platform import images
from fireedit.platform.cluster import HOST, local_session
from fireedit.serve import metrics
from tests.serve.conftest import Client

EXPORTED_WITHIN_S = 25
SUMS = ("count", "sum")
LABELS = ("outcome", "stage", "kind", "reason", "from", "to")


def record_all() -> None:
    """Call each function of the module once; a batch of 3 and one of 6."""
    metrics.count_request("ok")
    metrics.observe_request(0.25)
    metrics.observe_stage("unet", queue_s=0.0, run_s=0.2)
    for size in (3, 6):
        metrics.observe_batch("unet", size)
    metrics.count_steps(10)
    metrics.count_steps(0)
    metrics.count_cache("percepts", hit=False)
    metrics.count_cache("percepts", hit=True)
    metrics.count_rejection("queue_full")
    metrics.count_bytes("detector", "vlm", 1000)
    metrics.set_load("unet", running=2, waiting=0)


def test_without_ray_nothing_is_recorded_and_no_torch_is_imported() -> None:
    program = f"""import sys, threading, ray
from fireedit.serve import metrics
{inspect.getsource(record_all)}
record_all()
assert not ray.is_initialized() and "torch" not in sys.modules and threading.active_count() == 1"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_boundaries_of_seconds_reach_from_a_stage_of_nano_to_the_longest_queue() -> None:
    assert metrics.SECONDS[0] == 0.001 and metrics.SECONDS[-1] >= 900
    assert all(1 < upper / lower < 2.01 for lower, upper in pairwise(metrics.SECONDS))


@pytest.mark.ray
def test_every_metric_is_exported_and_gauges_stay(ray_session: None) -> None:
    import ray

    class Replica:
        def work(self) -> str:
            record_all()
            return ray.get_runtime_context().get_worker_id()

    replica = ray.remote(num_cpus=0)(Replica).remote()
    worker = ray.get(replica.work.remote())
    deadline = time.monotonic() + EXPORTED_WITHIN_S
    while not exported(worker) and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(4 * ray._config.metrics_report_interval_ms() / 1000)
    seen = exported(worker)
    ray.kill(replica)
    names = {name.partition("{")[0] for name in seen}
    assert names == {*metrics.COUNTERS, *metrics.GAUGES} | {f"{name}_{x}" for name in metrics.HISTOGRAMS for x in SUMS}
    assert seen['fireedit_requests_total{outcome="ok"}'] == seen["fireedit_e2e_seconds_count"] == 1
    assert seen["fireedit_denoise_steps_total"] == 10
    assert seen['fireedit_transfer_bytes_total{from="detector",to="vlm"}'] == 1000
    assert seen['fireedit_batch_size_sum{stage="unet"}'] == 9
    assert seen['fireedit_requests_running{stage="unet"}'] == 2
    assert seen['fireedit_requests_waiting{stage="unet"}'] == 0


@pytest.mark.ray
def test_proxy_and_every_stage_log_the_id_that_the_client_sent(client: Client, photos: list[np.ndarray]) -> None:
    import ray

    files = {"image": images.encode_png(photos[0])}
    fields, headers = {"prompt": "make it red", "num_inference_steps": "1"}, {"x-request-id": "my-own-id"}
    answer = client.session.post(f"{client.url}/v1/images/edits", data=fields, files=files, headers=headers, timeout=60)
    assert answer.status_code == 200 and answer.headers["x-request-id"] == "my-own-id"
    context = ray.get_runtime_context()
    logs = Path(context.get_temp_dir(), context.get_session_name(), "logs", "serve")
    silent = {"proxy", "Gateway", "Detector", "VLM", "UNet"}
    deadline = time.monotonic() + 10
    while silent and time.monotonic() < deadline:
        heard = {
            part for path in logs.glob("*.log") if "my-own-id" in path.read_text() for part in path.stem.split("_")
        }
        silent -= heard
        time.sleep(0.1)
    assert not silent


def exported(worker: str) -> dict[str, float]:
    """Ask this node's agent for the metrics of one process, by name and labels, without buckets and Ray's labels."""
    import ray

    (node,) = ray.nodes()
    text = local_session().get(f"http://{HOST}:{node['MetricsExportPort']}/metrics", timeout=10).text
    values = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = sample.name.removeprefix("ray_")
            if name.startswith("fireedit_") and sample.labels["WorkerId"] == worker and "le" not in sample.labels:
                labels = ",".join(f'{key}="{sample.labels[key]}"' for key in LABELS if key in sample.labels)
                values[f"{name}{{{labels}}}" if labels else name] = sample.value
    return values
