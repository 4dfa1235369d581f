"""Published training time and the ways to a shorter one, step by step."""

from collections.abc import Mapping
from dataclasses import dataclass

from fireedit.jobs.planning.instances import Cluster, Prices, parse_cluster
from fireedit.jobs.planning.step_cost import StepCost

PAPER_HOURS, PAPER_CLUSTER = 64.0, "16xa100-80g"
PAPER_STEPS, PAPER_SAMPLES = 30_000, 256
"""Steps of stages 2 and 3; the samples of a step are assumed, the paper is silent."""
PAPER_UTILIZATION = 0.18
TARGET_HOURS = 24.0
BETTER_UTILIZATION = 0.38
"""Share of an A100's peak assumed for large micro-batches with a compiled UNet; not measured."""
FASTER_CLUSTER, FASTER_UTILIZATION = "16xh100", 0.28
"""Share of an H100's peak assumed for the same step: three times the FLOPs at twice the bandwidth; not measured."""


@dataclass(frozen=True, kw_only=True)
class Lever:
    """Published run after one more change."""

    name: str
    tflop: float
    """FLOPs of a sample, 1e12."""
    gpus: str
    utilization: float
    hours: float
    assumed: bool
    """True if the utilization is neither the published run's nor measured."""


def levers(costs: Mapping[bool, StepCost], prices: Prices) -> list[Lever]:
    """List the published run and each change that shortens it, every one upon those before.

    All steps are taken to be of the stage that was measured; stage 2 is a few percent cheaper than 3.
    """
    published, faster = (parse_cluster(gpus, prices) for gpus in (PAPER_CLUSTER, FASTER_CLUSTER))

    def lever(name: str, flops: float, utilization: float = PAPER_UTILIZATION, cluster: Cluster = published) -> Lever:
        return Lever(
            name=name,
            tflop=flops / 1e12,
            gpus=f"{cluster.gpus}x{cluster.name}",
            utilization=utilization,
            hours=hours_of(flops, cluster, utilization),
            assumed=utilization != PAPER_UTILIZATION,
        )

    whole, without = flops_of(costs[True]), flops_of(costs[False])
    encoded = without - costs[False].flops.get(("forward", "vae"), 0.0)
    return [
        lever("as published, with gradient checkpointing (assumed)", whole),
        lever("no recomputation", without),
        lever("precomputed VAE moments: ingest.encoded=true", encoded),
        lever("torch.compile, larger micro-batches, fewer waits", encoded, BETTER_UTILIZATION),
        lever(f"the same on {FASTER_CLUSTER}", encoded, FASTER_UTILIZATION, faster),
    ]


def flops_of(cost: StepCost) -> float:
    """FLOPs of a sample, recomputation included."""
    return cost.total("forward") + cost.total("backward")


def hours_of(flops: float, cluster: Cluster, utilization: float) -> float:
    """Hours of the published run at so many FLOPs a sample."""
    return PAPER_STEPS * PAPER_SAMPLES * flops / (cluster.peak_flops * utilization) / 3600
