"""Scaling of a stage by the seconds of work that wait in it; Ray Serve's controller runs the policy, without torch."""

from typing import Any

from ray.serve.config import AutoscalingContext


class QueueSecondsPolicy:
    """Wish for as many replicas as keep the work waiting in each, `queue_seconds` of its stats, at the target or below.

    A request count says little of a stage whose requests take from a tenth of a second to minutes. Ray Serve averages
    the stats over its look-back, waits `upscale_delay_s` or `downscale_delay_s` before it follows, and keeps the bounds
    of the config; so does this, for callers without Ray Serve.

    Args:
        target_queue_s: seconds of work per replica.
    """

    def __init__(self, target_queue_s: float):
        self.target_queue_s = target_queue_s

    def __call__(self, context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
        """Return the wished number of replicas, and the policy's state, of which there is none."""
        by_replica = (context.aggregated_metrics or {}).get("queue_seconds", {})
        wished = sum(by_replica.values()) / self.target_queue_s
        # Work in a handle's queue has no known length; requests that are running keep their stage alive.
        needed = 1 if context.total_num_requests > 0 else 0
        least, most = context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas
        return min(max(wished, needed, least), most), {}
