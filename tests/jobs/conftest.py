"""Published checkpoints at nano's sizes, for the tests of their conversion."""

from pathlib import Path

import pytest

from fireedit.models.pipeline import FireEditPipeline
from tests.factories import shaken
from tests.jobs.published_folders import publish


@pytest.fixture(scope="session")
def trained() -> FireEditPipeline:
    """A pipeline with the weights that the published checkpoints hold."""
    pipeline = FireEditPipeline.fresh(seed=11)
    shaken(pipeline.vlm)
    return pipeline


@pytest.fixture(scope="session")
def published(trained: FireEditPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders groma, llm, dinov2, clip, instruct-pix2pix and the file qformer.bin (SmartEdit's)."""
    root = tmp_path_factory.mktemp("published")
    publish(trained, root)
    return root
