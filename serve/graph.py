"""Ray Serve application of the service: gateway -> detector -> VLM -> UNet, each scaled on its own."""

from dataclasses import dataclass, field
from typing import Any

from ray import serve
from ray.serve.config import AutoscalingConfig, BackpressureConfig

from fireedit.platform import config
from fireedit.serve.detector import DetectorDeployment
from fireedit.serve.errors import RETRY_AFTER_S
from fireedit.serve.gateway import Gateway
from fireedit.serve.part import ModelDeployment, WeightsConfig
from fireedit.serve.schema import LimitsConfig
from fireedit.serve.unet import UNetDeployment
from fireedit.serve.vlm import VLMDeployment

METRICS_INTERVAL_S, LOOK_BACK_S = 10, 20
"""Seconds; Ray 2.60 warns of any other interval, and of a look-back that is not longer."""


@dataclass(frozen=True, kw_only=True)
class ReplicasConfig:
    """Number of replicas of a deployment and the resources of each."""

    cpus: float = 0.25
    """Logical CPUs of Ray; torch runs as many threads, and at least one."""
    gpus: float = 0
    min_replicas: int = 1
    max_replicas: int = 1
    target_ongoing_requests: float = 4
    """Load per replica above which replicas are added."""
    max_ongoing_requests: int = 32
    """Requests that one replica holds, running or waiting."""
    max_queued_requests: int = 128
    """Requests queued beyond that: a last resort, as `limits.max_edits` of the gateway is exact."""
    upscale_delay_s: float = 10
    downscale_delay_s: float = 300


@dataclass(frozen=True, kw_only=True)
class ModelReplicasConfig(ReplicasConfig):
    """Replicas of a model deployment and the size of its batches."""

    max_batch_size: int = 4
    """Edits per batch; an edit of n images counts once."""
    batch_wait_s: float = 0.002
    """Seconds that an idle model waits for the batch to fill after its first request."""


@dataclass(frozen=True, kw_only=True)
class GraphRecipe(WeightsConfig):
    """Complete configuration of a service; the defaults suit nano on two CPU cores."""

    model_name: str = "fireedit"
    """Model id in /v1/models."""
    gateway: ReplicasConfig = field(default_factory=lambda: ReplicasConfig(max_ongoing_requests=128))
    detector: ModelReplicasConfig = field(default_factory=ModelReplicasConfig)
    vlm: ModelReplicasConfig = field(default_factory=ModelReplicasConfig)
    unet: ModelReplicasConfig = field(default_factory=ModelReplicasConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)


def build(args: dict[str, Any]) -> serve.Application:
    """Build the application from the `args` of a config file, for `serve run` and `serve deploy`.

    Raises:
        RecipeError: the args are no GraphRecipe.
    """
    recipe = config.parse(GraphRecipe, args, where="args")
    weights = WeightsConfig(weights=recipe.weights, device=recipe.device, precision=recipe.precision)
    detector = _model("Detector", DetectorDeployment, weights, recipe.detector)
    vlm = _model("VLM", VLMDeployment, weights, recipe.vlm)
    unet = _model("UNet", UNetDeployment, weights, recipe.unet)
    gateway = _deployment("Gateway", Gateway, recipe.gateway)
    return gateway.bind(detector, vlm, unet, recipe.limits, recipe.model_name)


def _model(
    name: str, kind: type[ModelDeployment], weights: WeightsConfig, replicas: ModelReplicasConfig
) -> serve.Application:
    return _deployment(name, kind, replicas).bind(weights, replicas.max_batch_size, replicas.batch_wait_s)


def _deployment(name: str, kind: type, replicas: ReplicasConfig) -> serve.Deployment:
    return serve.deployment(
        name=name,
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
