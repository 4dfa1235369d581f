"""Time and price of a run."""

from dataclasses import replace

import pytest

from fireedit.jobs.planning.costs import checkpoint_bytes, cost_of, shards_bytes
from fireedit.jobs.planning.instances import Cluster, Prices, load_prices, parse_cluster
from fireedit.jobs.planning.memory import Weights
from fireedit.jobs.training.recipe import TrainRecipe, read_recipe


@pytest.fixture(scope="module")
def prices() -> Prices:
    return load_prices()


@pytest.fixture(scope="module")
def paper() -> TrainRecipe:
    """The paper's stage 3: 25,000 steps of 256 samples on 16 workers of 8 CPUs."""
    changes = "engine.micro_batch=8 engine.accumulate=2 workers.count=16 workers.cpus=8 steps=25000"
    return read_recipe(["--stage", "3", "--config", "paper", *changes.split()])


@pytest.fixture(scope="module")
def cluster(prices: Prices) -> Cluster:
    return parse_cluster("16xa100-80g", prices)


def test_a_step_takes_its_flops_at_a_share_of_the_peak(
    paper: TrainRecipe, cluster: Cluster, prices: Prices, weights: Weights
) -> None:
    cost = cost_of(paper, cluster, prices, weights, flops=20e12, utilization=0.2)
    assert cost.step_s == pytest.approx(256 * 20 / (16 * 312 * 0.2))
    assert cost.samples_per_s * cost.step_s == pytest.approx(256)
    assert cost.hours == pytest.approx(25_000 * cost.step_s / 3600)
    assert cost.gpu_hours == pytest.approx(16 * cost.hours)
    assert cost.on_demand == pytest.approx(2 * 27.447 * cost.hours)
    assert cost.spot is not None and cost.spot < cost.on_demand


def test_minutes_give_the_number_of_steps(
    paper: TrainRecipe, cluster: Cluster, prices: Prices, weights: Weights
) -> None:
    timed = replace(paper, steps=None, minutes=60.0)
    assert cost_of(timed, cluster, prices, weights, 20e12, 0.2).hours == pytest.approx(1, rel=0.01)


def test_decoding_takes_nodes_of_its_own_once_the_gpus_cores_are_busy(
    paper: TrainRecipe, prices: Prices, weights: Weights
) -> None:
    small = replace(paper, workers=replace(paper.workers, cpus=12))  # all of an instance's
    cluster = parse_cluster("16xa100-80g", prices)
    cost = cost_of(small, cluster, prices, weights, flops=1e10, utilization=0.5)
    assert cost.decoding_cores == pytest.approx(cost.samples_per_s / 87)
    assert cost.cpu_nodes == -(-cost.decoding_cores // 32) > 1
    assert cost.cpu_dollars == pytest.approx(cost.cpu_nodes * cost.hours * 1.36)
    assert cost_of(paper, cluster, prices, weights, 1e13, 0.5).cpu_nodes == 0


def test_checkpoints_hold_masters_moments_and_averages(paper: TrainRecipe, weights: Weights) -> None:
    assert checkpoint_bytes(paper, weights) == 1e9 * (2 + 4 + 8)
    assert checkpoint_bytes(replace(paper, ema=0.99), weights) == 1e9 * (2 + 4 + 8 + 4)


def test_shards_are_as_large_as_the_published_corpora(paper: TrainRecipe, prices: Prices) -> None:
    assert shards_bytes(replace(paper, mixture={"magicbrush": 1.0}), prices) == pytest.approx(8807 * 125e3)
    encoded = replace(paper, mixture={"magicbrush": 1.0}, ingest=replace(paper.ingest, encoded=True))
    assert shards_bytes(encoded, prices) == pytest.approx(8807 * (125e3 + 2 * 8 * 64 * 64 * 2))
    captions = read_recipe(["--stage", "1", "--config", "paper"])
    assert shards_bytes(captions, prices) == pytest.approx(11e6 * 200)
