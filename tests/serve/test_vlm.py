"""Deployment of understanding, without Ray around it but for one test."""

import asyncio
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from fireedit.models.model import Percepts
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.speed import SpeedConfig
from fireedit.serve.detector import tokens_of
from fireedit.serve.part import BatchingConfig, WeightsConfig
from fireedit.serve.schema import BadRequest, DeadlineExceeded
from fireedit.serve.stage import Understood
from fireedit.serve.vlm import VLMDeployment
from tests.serve.conftest import Client


@pytest.fixture(scope="module")
def vlm(weights: Path) -> VLMDeployment:
    return VLMDeployment(WeightsConfig(weights=str(weights)), BatchingConfig())


@pytest.fixture(scope="module")
def percepts(pipeline: FireEditPipeline, photos: list[np.ndarray]) -> list[Percepts]:
    return [tokens_of(each) for each in pipeline.perceive(photos[:2]).split()]


def test_edit_tokens_are_the_pipelines(
    vlm: VLMDeployment, pipeline: FireEditPipeline, percepts: list[Percepts]
) -> None:
    loaded = {name for name, part in vlm.pipeline.components.items() if part is not None}
    assert loaded == set(FireEditPipeline.UNDERSTANDING) and vlm.request_seconds > 0
    prompts = ["make it red", "add a much larger dog beside the cat"]
    batch = vlm.run(list(zip(percepts, prompts, "ab", strict=True)))
    for each, prompt, together in zip(percepts, prompts, batch, strict=True):
        expected = pipeline.understand(each, [prompt])
        (alone,) = vlm.run([(each, prompt, "c")])
        assert torch.equal(alone, expected) and torch.allclose(together, expected, atol=1e-5)
        assert len(pickle.dumps(together)) < 1.2 * together.nbytes, "without the rest of its batch"


def test_a_pictures_prefix_is_kept_by_its_key(
    weights: Path, pipeline: FireEditPipeline, percepts: list[Percepts]
) -> None:
    keeping = VLMDeployment(WeightsConfig(weights=str(weights), speed=SpeedConfig(prefixes=2)), BatchingConfig())
    prefixes = keeping.pipeline.prefixes
    assert prefixes is not None
    for prompt, hits in (("make it red", 0), ("remove the dog", 1)):
        (tokens,) = keeping.run([(percepts[0], prompt, "key")])
        assert prefixes.hits == hits
        assert torch.allclose(tokens, pipeline.understand(percepts[0], [prompt]), atol=1e-5)


def test_too_long_a_prompt_fails_alone(vlm: VLMDeployment, percepts: list[Percepts]) -> None:
    with pytest.raises(BadRequest, match="at most"):
        asyncio.run(vlm.understand("key", percepts[0], "red " * 500, time.time() + 60, "id"))


@pytest.mark.ray
def test_a_prompt_on_a_picture_is_understood_once(client: Client, percepts: list[Percepts]) -> None:
    from ray import serve

    understand = serve.get_deployment_handle("VLM", "fireedit").understand
    deadline = time.time() + 60

    def call(key: str, prompt: str) -> Understood:
        return understand.remote(key, percepts[0], prompt, deadline, "id").result()

    first, again = call("a picture", "make it red"), call("a picture", "make it red")
    others = [call("another", "make it red"), call("a picture", "make it blue")]
    assert first.edit_tokens == again.edit_tokens and (first.times.cached, again.times.cached) == (False, True)
    assert not any(other.times.cached for other in others)
    with pytest.raises(DeadlineExceeded):
        understand.remote("a picture", percepts[0], "never", time.time() - 1, "late").result()
