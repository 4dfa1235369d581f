"""Each stage runs on the device that its weights are on."""

import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import PropertyMock, patch

import pytest
import torch
from torch import nn

from fireedit.models.pipeline import FireEditPipeline
from tests.factories import picture


def test_stages_have_devices_of_their_own() -> None:
    pipeline = FireEditPipeline.fresh(seed=0)
    before = pipeline.perceive([picture(1)])
    pipeline.place_stages({"perceive": "cpu", "understand": "meta", "paint": "cpu"})
    assert [str(pipeline.device_of(stage)) for stage in ("perceive", "understand", "paint")] == ["cpu", "meta", "cpu"]
    assert torch.equal(pipeline.perceive([picture(1)]).image_tokens, before.image_tokens)
    settings = pipeline.settings.but(num_inference_steps=1)
    state = pipeline.prepare([picture(1, 64, 64)], before, torch.zeros(1, 77, 96), settings)
    assert pipeline.paint(state).device.type == "cpu"


@pytest.mark.parametrize("parts", [["foo"], ("unet", "foo"), "unet"])
def test_parts_that_there_are_not_are_refused(parts: Any) -> None:
    for load in (
        lambda: FireEditPipeline.from_pretrained("nano", parts=parts),
        lambda: FireEditPipeline.fresh(parts=parts),
    ):
        with pytest.raises(
            ValueError, match=re.escape(f"parts is {parts!r}; write a list of some of vision, detector")
        ):
            load()


def test_a_pipeline_of_some_parts_says_what_an_edit_lacks(nano: FireEditPipeline) -> None:
    painting = FireEditPipeline(**(nano.components | dict.fromkeys(nano.PERCEIVING + nano.UNDERSTANDING)))
    with pytest.raises(
        ValueError, match="has no vision, vlm, vlm_tokenizer, qformer; load it whole .* without `parts`"
    ):
        painting("Remove the dog.", picture(1))
    with pytest.raises(ValueError, match="has no unet, vae, text_encoder, tokenizer, scheduler; load"):
        FireEditPipeline(**(nano.components | dict.fromkeys(nano.PAINTING)))("Remove the dog.", picture(1))


def test_offloaded_parts_and_stages_elsewhere_follow_the_pipeline(nano: FireEditPipeline) -> None:
    painting = FireEditPipeline(**(nano.components | dict.fromkeys(nano.PERCEIVING + nano.UNDERSTANDING)))
    assert painting.device_of("perceive") == painting.device_of("paint") == torch.device("cpu")
    with patch.object(FireEditPipeline, "_execution_device", torch.device("cuda")):
        assert painting.device_of("perceive") == painting.device_of("paint") == torch.device("cuda")


def test_diffusers_is_not_asked_about_parts_on_an_accelerator(nano: FireEditPipeline) -> None:
    class Placed(nn.Module):
        device = torch.device("cuda:1")

        def parameters(self, recurse: bool = True) -> Iterator[Any]:
            return iter([SimpleNamespace(device=self.device)])

    pipeline = FireEditPipeline(**nano.components)
    asked = PropertyMock(return_value=torch.device("cuda:0"))
    with patch.object(FireEditPipeline, "_execution_device", asked), patch.object(pipeline, "hvca", Placed()):
        assert pipeline.device_of("paint") == torch.device("cuda:1") and not asked.called
        assert pipeline.device_of("understand") == torch.device("cuda:0") and asked.called


def test_weights_are_drawn_on_their_device() -> None:
    pipeline = FireEditPipeline.fresh(seed=0, device="meta")
    assert all(pipeline.device_of(stage).type == "meta" for stage in ("perceive", "understand", "paint"))
    assert pipeline.scheduler.alphas_cumprod.device.type == "cpu"


def test_a_map_without_a_stage_is_refused(nano: FireEditPipeline) -> None:
    with pytest.raises(ValueError, match=r"device_map names \['paint'\]; write a device for each of \['paint', 'perce"):
        nano.place_stages({"paint": "cpu"})
