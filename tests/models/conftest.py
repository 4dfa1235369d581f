"""Small model shared by the tests of models/; a test that changes weights builds its own."""

import pytest

from fireedit.models.pipeline import FireEditPipeline
from tests.factories import shaken


@pytest.fixture(scope="session")
def nano() -> FireEditPipeline:
    """Pipeline of fresh weights; read only."""
    pipeline = FireEditPipeline.fresh(seed=0)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def editor() -> FireEditPipeline:
    """Pipeline whose TATI, HVCA and image attention affect the output, as after training; read only."""
    pipeline = FireEditPipeline.fresh(seed=3)
    for part in (pipeline.tati, pipeline.hvca, pipeline.unet):
        shaken(part, scale=0.02)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
