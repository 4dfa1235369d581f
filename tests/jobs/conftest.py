"""Published checkpoints at tiny sizes, for the tests of their conversion."""

import pytest

from tests.jobs.published_folders import Published, publish


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """Folders that a conversion reads; read only."""
    return publish(tmp_path_factory.mktemp("published"))
