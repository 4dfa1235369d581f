"""`--gpus` and the prices."""

import pytest

from fireedit.jobs.planning.instances import Prices, load_prices, parse_cluster
from fireedit.platform.config import RecipeError
from fireedit.platform.data.catalog import TRAINING_CORPORA


@pytest.fixture(scope="module")
def prices() -> Prices:
    return load_prices()


def test_gpus_name_instances_memory_and_peak(prices: Prices) -> None:
    cluster = parse_cluster("16xa100-80g", prices)
    assert (cluster.gpus, cluster.nodes, cluster.hardware) == (16, 2, "2 p4de.24xlarge")
    assert cluster.memory == 80e9 and cluster.peak_flops == 16 * 312e12


def test_a_part_of_an_instance_is_paid_whole(prices: Prices) -> None:
    assert parse_cluster("9xh100", prices).nodes == 2


@pytest.mark.parametrize("text", ["a100-80g", "16 a100-80g", "0xa100-80g", "-1xh100"])
def test_a_wrong_number_says_what_to_write(prices: Prices, text: str) -> None:
    with pytest.raises(RecipeError, match="write how many and which, such as 16xa100-80g"):
        parse_cluster(text, prices)


def test_an_unknown_gpu_names_the_nearest(prices: Prices) -> None:
    with pytest.raises(RecipeError, match="did you mean 'a100-80g'"):
        parse_cluster("16xa100-80gb", prices)


def test_every_corpus_of_the_catalog_has_a_number_of_rows(prices: Prices) -> None:
    assert set(TRAINING_CORPORA) == set(prices.rows)
