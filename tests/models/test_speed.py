"""Attention is told in words; compiled parts give the same outputs under the same names."""

from dataclasses import replace

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor

from fireedit.models.model import FireEdit
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.speed import attention_in_words, compile_parts
from fireedit.models.unet import EditUNet
from tests.factories import PAPERLIKE_UNET, shaken

DOWN, UP = ("CrossAttnDownBlock2D",), ("CrossAttnUpBlock2D",)


def test_the_attention_of_every_part_is_told_in_words(nano: FireEditPipeline) -> None:
    assert attention_in_words(nano.model) == "SDPA in vision, detector, vlm, qformer, unet, text_encoder"
    with torch.device("meta"):
        unet = EditUNet(PAPERLIKE_UNET)
    unet.set_attn_processor(AttnProcessor())
    assert attention_in_words(FireEdit(unet=unet, vlm=nano.vlm)) == "SDPA in vlm; eager in unet"


@pytest.mark.slow
def test_compiled_parts_give_the_same_outputs_and_gradients_under_the_same_names() -> None:
    torch.manual_seed(0)
    blocks = {"block_out_channels": (64,), "down_block_types": DOWN, "up_block_types": UP}
    model = FireEdit(unet=shaken(EditUNet(replace(PAPERLIKE_UNET, **blocks))))
    latents, tokens, detail = torch.randn(1, 4, 8, 8), torch.randn(1, 77, 96), torch.randn(1, 16, 96)

    def outputs() -> list[torch.Tensor]:
        predicted = model.unet.predict(latents, latents, torch.tensor([500]), tokens, detail)
        return [predicted, *torch.autograd.grad(predicted.square().mean(), [*model.unet.conv_in.parameters()])]

    names, before = list(model.state_dict()), outputs()
    compile_parts(model, ("unet",), backend="eager")
    assert list(model.state_dict()) == names
    for compiled, plain in zip(outputs(), before, strict=True):
        assert torch.allclose(compiled, plain, atol=1e-5)
