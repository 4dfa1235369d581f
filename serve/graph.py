"""The whole service as one Ray Serve application: gateway -> detector -> VLM -> UNet, each scaled on its own."""

from dataclasses import dataclass, field
from typing import Any

from ray import serve
from ray.serve.config import AutoscalingConfig, BackpressureConfig

from fireedit.platform import config
from fireedit.serve.detector import Detector
from fireedit.serve.errors import RETRY_AFTER_S
from fireedit.serve.gateway import Gateway
from fireedit.serve.part import Part, WeightsConfig
from fireedit.serve.schema import LimitsConfig
from fireedit.serve.unet import UNet
from fireedit.serve.vlm import VLM

METRICS_INTERVAL_S, LOOK_BACK_S = 10, 20
"""Ray 2.60 warns of any other interval, and of a look-back that is not longer."""


@dataclass(frozen=True, kw_only=True)
class ReplicasConfig:
    """How many replicas a deployment has, and what each takes."""

    cpus: float = 0.25
    """Of Ray's logical ones; torch runs as many threads, and at least one."""
    gpus: float = 0
    min_replicas: int = 1
    max_replicas: int = 1
    target_ongoing_requests: float = 4
    """Replicas are added while each has more than this to do."""
    max_ongoing_requests: int = 32
    """One replica holds at most this many, worked on or waiting."""
    max_queued_requests: int = 128
    """Beyond what the replicas hold. The last resort against a flood: `limits.max_edits` is counted exactly."""
    upscale_delay_s: float = 10
    downscale_delay_s: float = 300


@dataclass(frozen=True, kw_only=True)
class PartConfig(ReplicasConfig):
    max_batch_size: int = 4
    """Edits that go through the model together; one of n pictures counts once."""
    batch_wait_s: float = 0.002
    """How long the first of a batch waits for company when the model is idle; while it works, all wait anyway."""


@dataclass(frozen=True, kw_only=True)
class GraphRecipe(WeightsConfig):
    """Everything that a running service depends on; the defaults suit nano on two CPU cores."""

    model_name: str = "fireedit"
    """What /v1/models calls it."""
    gateway: ReplicasConfig = field(default_factory=lambda: ReplicasConfig(max_ongoing_requests=128))
    detector: PartConfig = field(default_factory=PartConfig)
    vlm: PartConfig = field(default_factory=PartConfig)
    unet: PartConfig = field(default_factory=PartConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)


def build(args: dict[str, Any]) -> serve.Application:
    """What `serve run` and `serve deploy` call, with the `args` of the config file.

    Raises:
        RecipeError: the args are no GraphRecipe.
    """
    recipe = config.parse(GraphRecipe, args, where="args")
    weights = WeightsConfig(weights=recipe.weights, device=recipe.device, precision=recipe.precision)
    detector = _part(Detector, weights, recipe.detector)
    vlm = _part(VLM, weights, recipe.vlm)
    unet = _part(UNet, weights, recipe.unet)
    gateway = _deployment(Gateway, recipe.gateway)
    return gateway.bind(detector, vlm, unet, recipe.limits, recipe.model_name)


def _part(kind: type[Part], weights: WeightsConfig, part: PartConfig) -> serve.Application:
    return _deployment(kind, part).bind(weights, part.max_batch_size, part.batch_wait_s)


def _deployment(kind: type, replicas: ReplicasConfig) -> serve.Deployment:
    return serve.deployment(
        ray_actor_options={"num_cpus": replicas.cpus, "num_gpus": replicas.gpus},
        autoscaling_config=AutoscalingConfig(
            min_replicas=replicas.min_replicas,
            max_replicas=replicas.max_replicas,
            target_ongoing_requests=replicas.target_ongoing_requests,
            upscale_delay_s=replicas.upscale_delay_s,
            downscale_delay_s=replicas.downscale_delay_s,
            metrics_interval_s=METRICS_INTERVAL_S,
            look_back_period_s=LOOK_BACK_S,
        ),
        max_ongoing_requests=replicas.max_ongoing_requests,
        max_queued_requests=replicas.max_queued_requests,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=RETRY_AFTER_S),
    )(kind)
