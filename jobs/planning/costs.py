"""Time and money of a run: steps at a share of the GPUs' peak, hours, dollars, storage, and CPUs that decode."""

import math
from dataclasses import dataclass

from fireedit.jobs.planning.instances import GB, Cluster, Prices
from fireedit.jobs.planning.memory import BYTES, FLOAT32, Weights
from fireedit.jobs.training.recipe import TrainRecipe
from fireedit.platform import storage
from fireedit.platform.data import shards

ROWS_PER_CORE = 87
"""Pairs of 512 px that a core decodes, resizes and tokenizes in a second (benchmarks/data.py)."""
PIXEL_BYTES = 125e3 / 512**2
"""Bytes of a pair in a shard by the pixels of one picture: 125 kB at 512 px (`ROWS_PER_GROUP` of data/shards.py)."""
CAPTION_BYTES = 200
"""Bytes of a row without pictures."""
HALF = 2
"""Bytes of a stored number of an encoding."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Time and price of one run."""

    step_s: float
    samples_per_s: float
    steps: int
    hours: float
    gpu_hours: float
    on_demand: float
    """Dollars of the GPUs' instances."""
    spot: float | None
    decoding_cores: float
    cpu_nodes: int
    """Instances for decoding beside the cores of the GPUs' instances."""
    cpu_dollars: float
    checkpoint_bytes: float
    """Bytes of one checkpoint; the recipe keeps some, and one more while it is written."""
    weights_bytes: float
    """Bytes of the pipeline that the run saves at its end."""
    shards_bytes: float
    storage_dollars_month: float


def cost_of(
    recipe: TrainRecipe, cluster: Cluster, prices: Prices, weights: Weights, flops: float, utilization: float
) -> Cost:
    """Price a run.

    Args:
        flops: FLOPs a sample, recomputation included.
        utilization: share of the GPUs' peak that they reach.
    """
    samples = recipe.samples_per_step
    step_s = samples * flops / (cluster.peak_flops * utilization)
    steps = recipe.steps or math.ceil((recipe.minutes or 0) * 60 / step_s)
    hours = steps * step_s / 3600
    cores = samples / step_s / ROWS_PER_CORE
    free = cluster.nodes * cluster.kind.cpus - cluster.gpus * recipe.workers.cpus
    nodes = max(0, math.ceil((cores - free) / prices.cpu.cpus))
    checkpoint = checkpoint_bytes(recipe, weights)
    pipeline = float((weights.frozen + weights.trained) * BYTES[recipe.engine.precision])
    rows = shards_bytes(recipe, prices)
    stored = (recipe.keep_checkpoints + 1) * checkpoint + pipeline + rows
    node_hours = cluster.nodes * hours
    return Cost(
        step_s=step_s,
        samples_per_s=samples / step_s,
        steps=steps,
        hours=hours,
        gpu_hours=cluster.gpus * hours,
        on_demand=node_hours * cluster.kind.on_demand,
        spot=None if cluster.kind.spot is None else node_hours * cluster.kind.spot,
        decoding_cores=cores,
        cpu_nodes=nodes,
        cpu_dollars=nodes * hours * prices.cpu.on_demand,
        checkpoint_bytes=checkpoint,
        weights_bytes=pipeline,
        shards_bytes=rows,
        storage_dollars_month=stored / GB * prices.storage_gb_month,
    )


def checkpoint_bytes(recipe: TrainRecipe, weights: Weights) -> float:
    """Compute the size of a checkpoint: float32 masters, moments and averages, and what is trained in its precision."""
    averages = FLOAT32 * weights.trained if recipe.ema else 0
    trained = weights.trained * (FLOAT32 + BYTES[recipe.engine.precision])
    return trained + FLOAT32 * weights.moments + averages


def shards_bytes(recipe: TrainRecipe, prices: Prices) -> float:
    """Estimate the size of the mixture's shards, with their encodings if the run reads these.

    Corpora at hand are counted, published ones are taken from the prices, others are unknown and left out.
    """
    rows = 0.0
    for corpus in recipe.mixture:
        root = storage.join(recipe.home, "shards", corpus)
        at_hand = storage.exists(storage.join(root, shards.INDEX))
        rows += shards.read_index(root).rows if at_hand else prices.rows.get(corpus, 0.0)
    sizes, encoded = recipe.model, recipe.ingest.encoded
    if recipe.stage == 1:
        return rows * (CAPTION_BYTES + encoded * HALF * sizes.text.tokens * sizes.text.width)
    moments = 2 * math.prod(sizes.vae.moments_shape) * HALF
    return rows * (PIXEL_BYTES * sizes.vae.sample_size**2 + encoded * moments)
