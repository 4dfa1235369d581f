"""Small model shared by the tests of models/; a test that changes weights builds its own."""

import pytest

from fireedit.models.pipeline import FireEditPipeline


@pytest.fixture(scope="session")
def nano() -> FireEditPipeline:
    """Pipeline of fresh weights; read only."""
    pipeline = FireEditPipeline.fresh(seed=0)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
