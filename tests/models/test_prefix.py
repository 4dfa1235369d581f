"""A picture's beginning of the prompt is read once, and gives the tokens that a whole prompt gives."""

from dataclasses import replace

import pytest
import torch

from fireedit.models.model import Percepts
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.prefix import Prefixes, percepts_key
from tests.factories import picture

PROMPTS = ["make it red", "add a much larger dog beside the cat", "remove it"]


@pytest.fixture(scope="module")
def percepts(nano: FireEditPipeline) -> Percepts:
    """Percepts of two pictures, with as many regions as they have."""
    return nano.perceive([picture(1), picture(2)])


@pytest.fixture
def keeping(nano: FireEditPipeline) -> FireEditPipeline:
    pipeline = FireEditPipeline(**nano.components)
    pipeline.prefixes = Prefixes(most=1)
    return pipeline


def test_tokens_are_those_of_whole_prompts(
    nano: FireEditPipeline, keeping: FireEditPipeline, percepts: Percepts
) -> None:
    first, second = percepts.split()
    batch = Percepts.join([first, second, first])
    expected = nano.understand(batch, PROMPTS)
    for _ in range(2):
        assert torch.allclose(keeping.understand(batch, PROMPTS), expected, atol=1e-5)
    assert torch.allclose(keeping.understand(first, PROMPTS[2:]), nano.understand(first, PROMPTS[2:]), atol=1e-5)


def test_the_latest_pictures_are_kept(keeping: FireEditPipeline, percepts: Percepts) -> None:
    first, second = percepts.split()
    assert keeping.prefixes is not None
    for each, hits in ((first, 0), (first, 1), (second, 1), (first, 1), (first, 2)):
        keeping.understand(each, ["make it blue"])
        assert keeping.prefixes.hits == hits


def test_keys_differ_with_the_regions(percepts: Percepts) -> None:
    first, second = percepts.split()
    fewer = replace(first, region_tokens=(first.region_tokens[0][:1] + 1,))
    assert len({percepts_key(each) for each in (first, second, fewer)}) == 3
    assert percepts_key(first) == percepts_key(Percepts.join([first]))
