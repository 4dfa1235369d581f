"""The small model that the tests of models/ share; who changes a weight builds a model of its own."""

import pytest

from fireedit.models.pipeline import FireEditPipeline


@pytest.fixture(scope="session")
def nano() -> FireEditPipeline:
    """Fresh weights; to be read only."""
    pipeline = FireEditPipeline.fresh_nano(seed=0)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
