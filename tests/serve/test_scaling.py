"""Number of replicas that a stage wishes for, from contexts as Ray Serve's controller makes them."""

from collections.abc import Sequence
from typing import Any

import pytest
from ray.serve.autoscaling_policy import _apply_autoscaling_config
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from fireedit.serve.scaling import QueueSecondsPolicy


def context(
    queue_seconds: Sequence[float],
    requests: float = 0,
    target: int | None = None,
    state: dict[str, Any] | None = None,
    bounds: tuple[int, int] = (0, 8),
    up_s: float = 0,
    down_s: float = 0,
) -> AutoscalingContext:
    """Describe a stage by the queue seconds of each of its running replicas.

    Args:
        target: replicas that were decided on before; as many as run, by default.
    """
    replicas: list[Any] = [f"replica {index}" for index in range(len(queue_seconds))]
    config = AutoscalingConfig(
        min_replicas=bounds[0], max_replicas=bounds[1], upscale_delay_s=up_s, downscale_delay_s=down_s
    )
    metrics: Any = {"queue_seconds": dict(zip(replicas, queue_seconds, strict=True))} if replicas else {}
    return AutoscalingContext(
        deployment_id=None,  # type: ignore[arg-type]
        deployment_name="UNet",
        app_name="fireedit",
        current_num_replicas=len(replicas),
        target_num_replicas=len(replicas) if target is None else target,
        running_replicas=replicas,
        total_num_requests=requests,
        total_queued_requests=requests if not replicas else 0,
        aggregated_metrics=metrics,
        raw_metrics={},
        capacity_adjusted_min_replicas=bounds[0],
        capacity_adjusted_max_replicas=bounds[1],
        policy_state=state or {},
        last_scale_up_time=None,
        last_scale_down_time=None,
        current_time=None,
        config=config,
    )


serve_policy = _apply_autoscaling_config(QueueSecondsPolicy(target_queue_s=10))
"""The policy as the controller calls it."""


@pytest.mark.parametrize(
    ("queue_seconds", "replicas"),
    [([9], 1), ([11], 2), ([35], 4), ([12, 12], 3), ([500, 500], 8), ([4, 3, 2], 1), ([8, 8, 8], 3), ([1, 0, 0], 1)],
)
def test_replicas_follow_the_seconds_of_work(queue_seconds: list[float], replicas: int) -> None:
    decided, _ = serve_policy(context(queue_seconds, requests=1))
    assert decided == replicas


def test_few_long_edits_count_for_more_than_many_short_ones() -> None:
    few_long, _ = serve_policy(context([40.0], requests=2))
    many_short, _ = serve_policy(context([4.0], requests=40))
    assert (few_long, many_short) == (4, 1)


def test_an_unused_stage_stops_and_a_request_in_a_handle_wakes_it() -> None:
    assert serve_policy(context([0.0]))[0] == 0
    assert serve_policy(context([0.0], bounds=(1, 8)))[0] == 1
    assert serve_policy(context([0.0], requests=1))[0] == 1, "a running request keeps its replica"
    assert serve_policy(context([]))[0] == 0
    assert serve_policy(context([], requests=1, up_s=60))[0] == 1, "without any delay"


def test_replicas_that_have_not_reported_yet_have_no_work() -> None:
    starting = context([20.0], requests=1)
    starting.current_num_replicas = 2
    assert serve_policy(starting)[0] == 2
    starting.__dict__.pop("aggregated_metrics", None)
    starting._aggregated_metrics_value = None
    assert QueueSecondsPolicy(10)(starting)[0] == 1


def test_replicas_are_added_and_removed_only_after_their_delays() -> None:
    decided, state = serve_policy(context([25.0], requests=1, up_s=60))
    assert decided == 1 and serve_policy(context([25.0], requests=1, up_s=0, state=state))[0] == 3
    decided, state = serve_policy(context([1.0, 1.0, 1.0], requests=1, down_s=60))
    assert decided == 3 and serve_policy(context([1.0, 1.0, 1.0], requests=1, down_s=0, state=state))[0] == 1
