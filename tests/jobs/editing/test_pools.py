"""Actor pools that ship."""

import pytest

from fireedit.jobs.editing.pools import FOLDER, PoolsConfig
from fireedit.platform import config


@pytest.mark.parametrize(("name", "cpus", "gpus"), [("cpu", 2, 0), ("cuda", 8, 1)])
def test_the_smallest_pools_fit_a_small_machine(name: str, cpus: int, gpus: int) -> None:
    pools = config.load(PoolsConfig, name, folder=FOLDER)
    assert pools.device == name and pools.together == (name == "cpu")
    assert sum(bundle.get("CPU", 0) for bundle in pools.bundles) <= cpus
    assert sum(bundle.get("GPU", 0) for bundle in pools.bundles) <= gpus
