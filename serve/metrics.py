"""Metrics of the service, by stage; Ray exports them to Prometheus with the prefix `ray_`."""


def count_request(outcome: str) -> None:
    """Count an answered edit: ok, rejected, invalid, unauthorized, timeout, canceled, unavailable or failed."""


def observe_request(seconds: float) -> None:
    """Record the time from a request's headers to its answer."""


def observe_stage(stage: str, queue_s: float, run_s: float) -> None:
    """Record the waiting and the running time of one edit in one stage."""


def observe_batch(stage: str, size: int) -> None:
    """Record the size of a batch: requests, or branches of a denoising step."""


def count_steps(steps: int) -> None:
    """Count denoising steps of edits."""


def count_cache(kind: str, hit: bool) -> None:
    """Count a look-up in a cache."""


def count_rejection(reason: str) -> None:
    """Count a refused request: queue_full, deadline, rate, quota, slow_body, too_many_bytes or memory."""


def count_bytes(source: str, target: str, count: int) -> None:
    """Count bytes handed from one stage to the next."""


def set_load(stage: str, running: int, waiting: int) -> None:
    """Set the number of edits that run and wait in this replica."""
