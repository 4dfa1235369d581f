"""Callbacks at the end of a step: diffusers' properties, tensors and interruption."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fireedit.models.pipeline import FireEditPipeline
from tests.factories import picture


def edit(pipeline: FireEditPipeline, callback: Any, **arguments: Any) -> Tensor:
    settings = {"num_inference_steps": 3, "keep_below": 0.0, "output_type": "latent", **arguments}
    noise = torch.Generator().manual_seed(0)
    return pipeline("make it red", picture(1), generator=noise, callback_on_step_end=callback, **settings).images


def test_a_callback_reads_the_properties_of_the_edit(nano: FireEditPipeline) -> None:
    seen = set()

    def read(pipe: FireEditPipeline, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        assert not pipe.interrupt
        scales = (pipe.guidance_scale, pipe.image_guidance_scale, pipe.do_classifier_free_guidance)
        seen.add((pipe.num_timesteps, *scales))
        return tensors

    edit(nano, read, guidance_scale=4.0, image_guidance_scale=1.5)
    edit(nano, read, num_inference_steps=2)
    assert seen == {(3, 4.0, 1.5, True), (2, 1.0, 1.0, False)}


def test_an_interruption_returns_the_picture_so_far(nano: FireEditPipeline) -> None:
    latents = []

    def stop(pipe: FireEditPipeline, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        latents.append(tensors["latents"])
        pipe._interrupt = step == 1
        return tensors

    assert torch.allclose(edit(nano, stop, num_inference_steps=6), latents[-1], atol=1e-5) and len(latents) == 2
    assert edit(nano, stop, num_inference_steps=1).isfinite().all() and len(latents) == 3, "the next edit runs"


def test_a_callback_gets_and_replaces_diffusers_tensors(nano: FireEditPipeline) -> None:
    shapes = {"latents": [1, 48, 16, 16], "prompt_embeds": [1, 77, 96], "image_latents": [1, 48, 16, 16]}

    def clear(pipe: FireEditPipeline, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        assert {name: [*tensor.shape] for name, tensor in tensors.items()} == shapes
        return {"image_latents": torch.zeros_like(tensors["image_latents"])}

    plain = edit(nano, None)
    assert plain.abs().max() > 0, "fresh weights copy the source"
    assert edit(nano, clear, callback_on_step_end_tensor_inputs=[*shapes]).abs().max() < 0.1 * plain.abs().max()


def test_a_replaced_tensor_of_another_shape_is_refused(nano: FireEditPipeline) -> None:
    with pytest.raises(ValueError, match=r"latents of shape \[1, 4\]; write \[1, 48, 16, 16\]"):
        edit(nano, lambda *_: {"latents": torch.zeros(1, 4)})
