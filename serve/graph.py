"""Ray Serve application of the service: gateway -> detector -> VLM -> UNet, each scaled on its own.

`editor: instruct-pix2pix` makes it gateway -> text encoder -> UNet.
"""

from dataclasses import dataclass, field, fields
from typing import Annotated, Any, TypeVar

from pydantic import Field
from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

from fireedit.models.editors.editor import EditorError
from fireedit.platform import config
from fireedit.platform.config import LogicalCPUs, LogicalGPUs, RecipeError
from fireedit.serve import scaling
from fireedit.serve.detector import DetectorDeployment
from fireedit.serve.engine import EngineConfig
from fireedit.serve.gateway import GatewayDeployment, ServiceConfig
from fireedit.serve.part import BatchedDeployment, BatchingConfig, WeightsConfig
from fireedit.serve.prompts import served_model
from fireedit.serve.stage import Stages
from fireedit.serve.text import TextDeployment
from fireedit.serve.unet import UNetDeployment
from fireedit.serve.vlm import VLMDeployment

C = TypeVar("C")

METRICS_INTERVAL_S, LOOK_BACK_S = 10, 20
"""Seconds; Ray 2.60 warns of any other interval, and of a look-back that is not longer."""
MAX_ONGOING = 10_000
"""Requests that one replica takes: the service's own queues are bounded in seconds of work, at the gateway."""
SURGE_PERCENT = 100
"""Replicas of a new version that start before old ones stop: their resources are free or the change waits for them."""

Seconds = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, kw_only=True)
class ReplicasConfig:
    """Number of replicas of a deployment and the resources of each."""

    cpus: LogicalCPUs = 0.1
    """Logical CPUs of Ray, which decide where replicas fit and not how many threads they run."""
    gpus: LogicalGPUs = 0
    min_replicas: Annotated[int, Field(ge=0)] = 1
    """0 stops an unused stage; its next request waits for a start."""
    max_replicas: Annotated[int, Field(ge=1)] = 1
    upscale_delay_s: Annotated[float, Field(ge=0)] = 5
    downscale_delay_s: Annotated[float, Field(ge=0)] = 300
    """Seconds for which fewer replicas must have been enough before one stops."""
    health_check_period_s: Seconds = 2
    """Seconds after which a dead replica is found and replaced, at most."""
    health_check_timeout_s: Seconds = 30
    """Seconds that one check may take; three failed ones in a row replace the replica."""
    graceful_shutdown_timeout_s: Seconds = 600
    """Seconds that a replica which is to stop may still work on its requests: more than the slowest edit."""

    def __post_init__(self) -> None:
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas is {self.max_replicas}; write {self.min_replicas} (min_replicas) or more")


@dataclass(frozen=True, kw_only=True)
class GatewayReplicasConfig(ReplicasConfig):
    """Replicas of the gateway: two, so that one answers while the other is replaced."""

    cpus: LogicalCPUs = 0.05
    min_replicas: Annotated[int, Field(ge=1)] = 2
    max_replicas: Annotated[int, Field(ge=1)] = 2
    target_ongoing_requests: Annotated[float, Field(gt=0)] = 64
    """Requests per replica above which replicas are added."""


@dataclass(frozen=True, kw_only=True)
class StageReplicasConfig(ReplicasConfig):
    """Replicas of a model deployment."""

    target_queue_s: Seconds = 2
    """Seconds of work waiting per replica above which replicas are added."""


@dataclass(frozen=True, kw_only=True)
class BatchedReplicasConfig(StageReplicasConfig, BatchingConfig):
    """Replicas of a model deployment, and the size of its batches."""


@dataclass(frozen=True, kw_only=True)
class UNetReplicasConfig(StageReplicasConfig, EngineConfig):
    """Replicas of the UNet's deployment, and their batches."""

    cpus: LogicalCPUs = 0.25
    threads: Annotated[int, Field(ge=1)] = 2
    """Threads of torch."""
    target_queue_s: Seconds = 10


@dataclass(frozen=True, kw_only=True)
class GraphRecipe(WeightsConfig, ServiceConfig):
    """Complete configuration of a service; the defaults suit nano on two CPU cores."""

    gateway: GatewayReplicasConfig = field(default_factory=GatewayReplicasConfig)
    detector: BatchedReplicasConfig = field(default_factory=BatchedReplicasConfig)
    vlm: BatchedReplicasConfig = field(default_factory=BatchedReplicasConfig)
    text: BatchedReplicasConfig = field(default_factory=BatchedReplicasConfig)
    """Text encoder of `editor: instruct-pix2pix`, in place of detector and VLM."""
    unet: UNetReplicasConfig = field(default_factory=UNetReplicasConfig)


def build(args: dict[str, Any]) -> serve.Application:
    """Build the application from the `args` of a config file, for `serve run` and `serve deploy`.

    Raises:
        RecipeError: the args are no GraphRecipe, or name weights that are missing or that the editor does not take.
    """
    recipe = config.parse(GraphRecipe, args, where="args")
    try:
        served = served_model(recipe.weights, recipe.editor)
    except FileNotFoundError as error:
        raise RecipeError(f"args: weights: {recipe.weights}: {error}; write a folder of weights, or nano") from None
    except EditorError as error:
        raise RecipeError(f"args: weights: {error}") from None
    weights = part_of(recipe, WeightsConfig)
    unet = _deployment("UNet", UNetDeployment, recipe.unet).bind(
        weights, recipe.unet.threads, part_of(recipe.unet, EngineConfig)
    )
    if recipe.editor == "instruct-pix2pix":
        stages = Stages(text=_batched("Text", TextDeployment, weights, recipe.text), unet=unet)
    else:
        detector = _batched("Detector", DetectorDeployment, weights, recipe.detector)
        vlm = _batched("VLM", VLMDeployment, weights, recipe.vlm)
        stages = Stages(detector=detector, vlm=vlm, unet=unet)
    from_zero = [name for name in stages.present if getattr(recipe, name).min_replicas == 0]
    gateway = _deployment("Gateway", GatewayDeployment, recipe.gateway)
    return gateway.bind(stages, served, part_of(recipe, ServiceConfig), from_zero)


def part_of(recipe: Any, kind: type[C]) -> C:
    """Copy the fields that a recipe has from one of its base classes: a change of the others restarts no replica."""
    return kind(**{each.name: getattr(recipe, each.name) for each in fields(kind)})  # type: ignore[arg-type]


def _batched(
    name: str, kind: type[BatchedDeployment], weights: WeightsConfig, replicas: BatchedReplicasConfig
) -> serve.Application:
    return _deployment(name, kind, replicas).bind(weights, part_of(replicas, BatchingConfig))


def _deployment(name: str, kind: type, replicas: GatewayReplicasConfig | StageReplicasConfig) -> serve.Deployment:
    return serve.deployment(
        name=name,
        ray_actor_options={"num_cpus": replicas.cpus, "num_gpus": replicas.gpus},
        autoscaling_config=_autoscaling(replicas),
        max_ongoing_requests=MAX_ONGOING,
        max_queued_requests=-1,
        max_surge_percent=SURGE_PERCENT,
        health_check_period_s=replicas.health_check_period_s,
        health_check_timeout_s=replicas.health_check_timeout_s,
        graceful_shutdown_timeout_s=replicas.graceful_shutdown_timeout_s,
    )(kind)


def _autoscaling(replicas: GatewayReplicasConfig | StageReplicasConfig) -> AutoscalingConfig:
    """Scale a stage by its seconds of work, and the gateway, which waits for the stages, by its requests."""
    autoscaling = AutoscalingConfig(
        min_replicas=replicas.min_replicas,
        max_replicas=replicas.max_replicas,
        upscale_delay_s=replicas.upscale_delay_s,
        downscale_delay_s=replicas.downscale_delay_s,
        metrics_interval_s=METRICS_INTERVAL_S,
        look_back_period_s=LOOK_BACK_S,
    )
    if isinstance(replicas, GatewayReplicasConfig):
        return autoscaling.model_copy(update={"target_ongoing_requests": replicas.target_ongoing_requests})
    policy = AutoscalingPolicy(
        policy_function=f"{scaling.__name__}:{scaling.QueueSecondsPolicy.__name__}",
        policy_kwargs={"target_queue_s": replicas.target_queue_s},
    )
    return autoscaling.model_copy(update={"policy": policy})
