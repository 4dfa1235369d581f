"""Metrics of the service, by stage; Ray exports them to Prometheus with the prefix `ray_`.

Every process creates its own on first use; Ray's label WorkerId tells them apart. Without Ray nothing is recorded.
"""

import threading
import time
from functools import cache

import ray
from ray.util.metrics import Counter, Gauge, Histogram

COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "fireedit_requests_total": ("Answered edits.", ("outcome",)),
    "fireedit_denoise_steps_total": ("Denoising steps of edits.", ()),
    "fireedit_cache_hits_total": ("Results taken from a cache.", ("kind",)),
    "fireedit_cache_misses_total": ("Results that a cache did not hold.", ("kind",)),
    "fireedit_rejected_total": ("Refused requests.", ("reason",)),
    "fireedit_transfer_bytes_total": ("Bytes handed from one stage to the next.", ("from", "to")),
}
GAUGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "fireedit_requests_running": ("Edits that a replica runs.", ("stage",)),
    "fireedit_requests_waiting": ("Edits that wait in a replica.", ("stage",)),
}
SECONDS = [value * unit for unit in (0.001, 0.01, 0.1, 1, 10, 100) for value in (1, 2, 3, 5, 7)] + [1000.0]
"""Boundaries from the fastest stage of nano to the longest queue, in seconds."""
SIZES = [size + 0.5 for size in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 14, 15, 17, 18, 23, 24, 31, 32, 47, 48, 63, 64)]
"""Boundaries around whole numbers: Ray 2.60 exports the sum of a histogram from the middles of its buckets."""
HISTOGRAMS: dict[str, tuple[str, tuple[str, ...], list[float]]] = {
    "fireedit_e2e_seconds": ("Time from a request's headers to its answer.", (), SECONDS),
    "fireedit_stage_queue_seconds": ("Waiting time of an edit in a stage.", ("stage",), SECONDS),
    "fireedit_stage_seconds": ("Running time of an edit in a stage.", ("stage",), SECONDS),
    "fireedit_batch_size": ("Requests, or branches of a denoising step, that ran together.", ("stage",), SIZES),
}
OUTCOMES = {200: "ok", 401: "unauthorized", 408: "timeout", 429: "rejected", 500: "failed", 503: "unavailable"}
"""Label of `fireedit_requests_total` by status; the others are `invalid`."""
REPEAT_S = 1.0
"""Seconds between two settings of a gauge: Ray 2.60 exports a setting once and drops it two intervals later."""


def count_request(outcome: str) -> None:
    """Count an answered edit: one of OUTCOMES, invalid, or canceled if its client left."""
    _count("fireedit_requests_total", 1, {"outcome": outcome})


def observe_request(seconds: float) -> None:
    """Record the time from a request's headers to its answer."""
    _observe("fireedit_e2e_seconds", seconds, {})


def observe_stage(stage: str, queue_s: float, run_s: float) -> None:
    """Record the waiting and the running time of one edit in one stage."""
    _observe("fireedit_stage_queue_seconds", queue_s, {"stage": stage})
    _observe("fireedit_stage_seconds", run_s, {"stage": stage})


def observe_batch(stage: str, size: int) -> None:
    """Record the size of a batch: requests, or branches of a denoising step."""
    _observe("fireedit_batch_size", size, {"stage": stage})


def count_steps(steps: int) -> None:
    """Count denoising steps of edits."""
    _count("fireedit_denoise_steps_total", steps, {})


def count_cache(kind: str, hit: bool) -> None:
    """Count a look-up in a cache."""
    _count("fireedit_cache_hits_total" if hit else "fireedit_cache_misses_total", 1, {"kind": kind})


def count_rejection(reason: str) -> None:
    """Count a refused request: queue_full, deadline, rate, quota, slow_body, too_many_bytes or store_full."""
    _count("fireedit_rejected_total", 1, {"reason": reason})


def count_bytes(source: str, target: str, count: int) -> None:
    """Count bytes handed from one stage to the next."""
    _count("fireedit_transfer_bytes_total", count, {"from": source, "to": target})


def set_load(stage: str, running: int, waiting: int) -> None:
    """Set the number of edits that run and wait in this replica."""
    if ray.is_initialized():
        _loads[stage] = (running, waiting)
        _export(stage, running, waiting)
        _start_repeating()


_loads: dict[str, tuple[int, int]] = {}
"""Edits that run and wait, by stage."""


@cache
def _start_repeating() -> None:
    threading.Thread(target=_repeat, name="fireedit-gauges", daemon=True).start()


def _repeat() -> None:
    while True:
        time.sleep(REPEAT_S)
        for stage, (running, waiting) in list(_loads.items()) if ray.is_initialized() else ():
            _export(stage, running, waiting)


def _export(stage: str, running: int, waiting: int) -> None:
    _gauge("fireedit_requests_running").set(running, {"stage": stage})
    _gauge("fireedit_requests_waiting").set(waiting, {"stage": stage})


def _count(name: str, count: int, labels: dict[str, str]) -> None:
    if count and ray.is_initialized():
        _counter(name).inc(count, labels)


def _observe(name: str, value: float, labels: dict[str, str]) -> None:
    if ray.is_initialized():
        _histogram(name).observe(value, labels)


@cache
def _counter(name: str) -> Counter:
    description, labels = COUNTERS[name]
    return Counter(name, description, labels)


@cache
def _gauge(name: str) -> Gauge:
    description, labels = GAUGES[name]
    return Gauge(name, description, labels)


@cache
def _histogram(name: str) -> Histogram:
    description, labels, boundaries = HISTOGRAMS[name]
    return Histogram(name, description, boundaries, labels)
