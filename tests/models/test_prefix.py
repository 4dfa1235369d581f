"""A picture's beginning of the prompt is read once, and gives the tokens that a whole prompt gives."""

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from peft.tuners.lora import LoraLayer
from torch import nn

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


def lora_layers(vlm: nn.Module) -> list[LoraLayer]:
    return [module for module in vlm.modules() if isinstance(module, LoraLayer)]


@torch.no_grad()
def load_lora(pipeline: FireEditPipeline) -> None:
    """Write other weights into the LoRA, as `load_state_dict` does."""
    for layer in lora_layers(pipeline.vlm):
        layer.lora_B["default"].weight.copy_(torch.full_like(layer.lora_B["default"].weight, 0.05))


def merge(pipeline: FireEditPipeline) -> None:
    for layer in lora_layers(pipeline.vlm):
        layer.merge()


def scale(pipeline: FireEditPipeline) -> None:
    for layer in lora_layers(pipeline.vlm):
        layer.scale_layer(0.5)


def disable(pipeline: FireEditPipeline) -> None:
    for layer in lora_layers(pipeline.vlm):
        layer.enable_adapters(False)


def cast(pipeline: FireEditPipeline) -> None:
    pipeline.vlm.to(torch.float64)


def cast_llm(pipeline: FireEditPipeline) -> None:
    for part in (pipeline.vlm.llm, pipeline.vlm.adapter):
        part.to(torch.float64)


@torch.inference_mode()
def replace_llm_in_inference_mode(pipeline: FireEditPipeline) -> None:
    pipeline.vlm.llm = copy.deepcopy(pipeline.vlm.llm)


def replace_vlm(pipeline: FireEditPipeline) -> None:
    pipeline.vlm = copy.deepcopy(pipeline.vlm)


@pytest.mark.parametrize(
    "change", [load_lora, merge, scale, disable, cast, cast_llm, replace_llm_in_inference_mode, replace_vlm]
)
def test_another_llm_or_state_of_it_reads_again(
    nano: FireEditPipeline, percepts: Percepts, change: Callable[[FireEditPipeline], None]
) -> None:
    pipeline = FireEditPipeline(**nano.components | {"vlm": copy.deepcopy(nano.vlm)})
    pipeline.prefixes = Prefixes(most=2)
    first, _ = percepts.split()
    for hits in (0, 1):
        pipeline.understand(first, PROMPTS[:1])
        assert pipeline.prefixes.hits == hits
    change(pipeline)
    for hits in (1, 2):
        pipeline.understand(first, PROMPTS[:1])
        assert pipeline.prefixes.hits == hits


@pytest.mark.parametrize("how", ["to", "place_stages"])
def test_a_moved_pipeline_drops_them(keeping: FireEditPipeline, percepts: Percepts, how: str) -> None:
    first, _ = percepts.split()
    keeping.understand(first, PROMPTS[:1])
    if how == "to":
        assert keeping.to("cpu") is keeping
    else:
        keeping.place_stages({"perceive": "cpu", "understand": "cpu", "paint": "cpu"})
    keeping.understand(first, PROMPTS[:1])
    assert keeping.prefixes is not None and keeping.prefixes.hits == 0


def test_an_offloaded_llm_is_refused(keeping: FireEditPipeline, percepts: Percepts) -> None:
    add_hook_to_module(keeping.vlm, ModelHook())
    try:
        with pytest.raises(ValueError, match=r"the VLM offloaded by diffusers; write prefixes=0, or pipe.to\('cuda'\)"):
            keeping.understand(percepts, PROMPTS[:2])
    finally:
        remove_hook_from_module(keeping.vlm)


def test_keys_differ_with_the_regions(percepts: Percepts) -> None:
    first, second = percepts.split()
    fewer = replace(first, region_tokens=(first.region_tokens[0][:1] + 1,))
    assert len({percepts_key(each) for each in (first, second, fewer)}) == 3
    assert percepts_key(first) == percepts_key(Percepts.join([first]))
