"""Switches change what they say; attention is told in words; compiled parts give the same outputs and names."""

import sys
from dataclasses import replace

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from pydantic import TypeAdapter, ValidationError

from fireedit.models.model import FireEdit
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.speed import SpeedConfig, accelerate, attention_in_words, compile_batches, compile_parts
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


@torch.no_grad()
def test_compiled_batches_are_one_graph_of_each_size() -> None:
    torch.manual_seed(0)
    blocks = {"block_out_channels": (64,), "down_block_types": DOWN, "up_block_types": UP}
    unet = shaken(EditUNet(replace(PAPERLIKE_UNET, **blocks)).eval())
    latents, tokens, detail = torch.randn(3, 4, 8, 8), torch.randn(3, 77, 96), torch.randn(3, 16, 96)

    def predict(count: int) -> torch.Tensor:
        timesteps = torch.full((count,), 500)
        return unet.predict(latents[:count], latents[:count], timesteps, tokens[:count], detail[:count])

    names, before = list(unet.state_dict()), [predict(count) for count in (1, 2, 3)]
    compile_batches(unet, (2,), backend="eager")
    assert list(unet.state_dict()) == names
    for plain, compiled in zip(before, [predict(count) for count in (1, 2, 3)], strict=True):
        assert torch.allclose(plain, compiled, atol=1e-5)


@torch.no_grad()
def test_channels_last_keeps_the_prediction() -> None:
    pipeline = FireEditPipeline.fresh(seed=0)
    shaken(pipeline.unet, scale=0.02)
    latents, tokens, detail = torch.randn(2, 48, 16, 16), torch.randn(2, 77, 96), torch.randn(2, 16, 96)
    inputs = (latents, latents, torch.tensor([3, 801]), tokens, detail)
    before = pipeline.unet.predict(*inputs)
    accelerate(pipeline, SpeedConfig(channels_last=True))
    assert pipeline.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(pipeline.unet.predict(*inputs), before, atol=1e-4)


def test_quantized_weights_need_torchao(nano: FireEditPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ImportError, match="llm_weights='int8' needs torchao, .*run: pip install torchao"):
        accelerate(nano, SpeedConfig(llm_weights="int8"))


@pytest.mark.parametrize(
    ("switches", "said"),
    [
        ({"guidance_interval": (0.7, 0.3)}, "found \\[0.7, 0.3\\]; write the smaller share first"),
        ({"compile": ["unet"], "batch_sizes": []}, "found none for compile; write some"),
        ({"compile": ["vlm"]}, "'unet', 'tati' or 'vae'"),
        ({"reuse_every": 0}, "greater than 0"),
    ],
)
def test_wrong_switches_are_named(switches: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        TypeAdapter(SpeedConfig).validate_python(switches)
