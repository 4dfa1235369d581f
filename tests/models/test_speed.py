"""Switches change what they say; attention is told in words; compiled parts give the same outputs and names."""

import copy
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn
from torch._dynamo.utils import counters

from fireedit.models.fixed_batches import FixedBatches
from fireedit.models.model import FireEdit
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.speed import SpeedConfig, accelerate, attention_in_words, compile_batches, compile_parts
from fireedit.models.unet import EditUNet
from fireedit.models.vae import EditVAE, VAEConfig
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


class Steps(nn.Module):
    """Module with two kinds of step, as the UNet has with `reuse_every`."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x: Tensor, deep: Tensor | None = None) -> Tensor:
        return self.layer(x) if deep is None else x + deep


@pytest.fixture
def fresh_dynamo() -> Iterator[None]:
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


@torch.no_grad()
def test_another_thread_compiles_more_graphs_than_torchs_limit_each_once(fresh_dynamo: None) -> None:
    sizes, steps = (1, 3, 6, 12, 24), Steps()
    compile_batches(steps, sizes, backend="eager")

    def run() -> None:
        for count in (*sizes, 2, 5, 24, 1):
            x, deep = torch.randn(2, count, 2)
            assert torch.equal(steps(x), steps.layer(x)) and torch.equal(steps(x, deep), x + deep)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(run).result()
    assert counters["stats"]["unique_graphs"] == 2 * len(sizes) > torch._dynamo.config.recompile_limit


@torch.no_grad()
def test_channels_last_keeps_the_prediction_and_goes_again() -> None:
    pipeline = FireEditPipeline.fresh(seed=0)
    shaken(pipeline.unet, scale=0.02)
    latents, tokens, detail = torch.randn(2, 48, 16, 16), torch.randn(2, 77, 96), torch.randn(2, 16, 96)
    inputs = (latents, latents, torch.tensor([3, 801]), tokens, detail)
    before, weight = pipeline.unet.predict(*inputs), pipeline.unet.conv_in.weight
    place = weight.data_ptr()
    accelerate(pipeline, SpeedConfig())
    assert weight.data_ptr() == place, "nothing is copied"
    accelerate(pipeline, SpeedConfig(channels_last=True))
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(pipeline.unet.predict(*inputs), before, atol=1e-4)
    accelerate(pipeline, SpeedConfig())
    assert weight.is_contiguous() and torch.equal(pipeline.unet.predict(*inputs), before)


def test_each_call_replaces_the_switches_of_the_one_before() -> None:
    pipeline = FireEditPipeline.fresh(seed=0, parts=("unet", "tati", "hvca"))
    pipeline.vae = EditVAE(VAEConfig(block_out_channels=(8,) * 4, norm_num_groups=4, layers_per_block=1))

    def compiled() -> dict[str, list[int]]:
        parts = {"unet": pipeline.unet, "tati": pipeline.tati}
        parts |= {"encoder": pipeline.vae.encoder, "decoder": pipeline.vae.decoder}
        calls = {name: part._compiled_call_impl for name, part in parts.items()}
        return {name: call.sizes for name, call in calls.items() if isinstance(call, FixedBatches)}

    accelerate(pipeline, SpeedConfig(compile={"unet": (3, 1), "decoder": (2,)}, backend="eager", prefixes=2))
    assert compiled() == {"unet": [1, 3], "decoder": [2]} and pipeline.prefixes is not None
    accelerate(pipeline, SpeedConfig(compile={"tati": (1,), "encoder": (1,)}, backend="eager"))
    assert compiled() == {"tati": [1], "encoder": [1]} and pipeline.prefixes is None
    accelerate(pipeline, SpeedConfig())
    assert compiled() == {} and pipeline.speed == SpeedConfig()


def test_quantized_weights_need_torchao(nano: FireEditPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ImportError, match="llm_weights='int8' needs torchao, .*run: pip install torchao"):
        accelerate(nano, SpeedConfig(llm_weights="int8"))


def test_weights_are_quantized_once(nano: FireEditPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    quantized, torchao = list[object](), ModuleType("torchao.quantization")
    kinds = {"Int8WeightOnlyConfig": object, "Float8WeightOnlyConfig": object}
    vars(torchao).update(kinds, quantize_=lambda model, *_: quantized.append(model))
    monkeypatch.setitem(sys.modules, "torchao", ModuleType("torchao"))
    monkeypatch.setitem(sys.modules, "torchao.quantization", torchao)
    pipeline = FireEditPipeline(**nano.components | {"vlm": copy.copy(nano.vlm)})
    for _ in range(2):
        accelerate(pipeline, SpeedConfig(llm_weights="int8"))
    assert quantized == [nano.vlm.llm.model] and nano.vlm.stored_weights is None
    with pytest.raises(ValueError, match="stored in int8, which cannot be undone; write int8, or load the pipeline"):
        accelerate(pipeline, SpeedConfig(llm_weights="fp8"))
    assert pipeline.speed.llm_weights == "int8"


def test_all_switches_of_a_pipeline_in_8_bits_but_its_weights_go_off_again() -> None:
    pipeline = FireEditPipeline.fresh(seed=0, parts=("vlm", "tati"))
    pipeline.vlm.stored_weights = "int8"
    accelerate(pipeline, SpeedConfig(compile={"tati": (1,)}, backend="eager", prefixes=2, share_keys=True))
    assert pipeline.tati._compiled_call_impl is not None and pipeline.prefixes is not None
    accelerate(pipeline, SpeedConfig())
    assert pipeline.tati._compiled_call_impl is None and pipeline.prefixes is None
    assert pipeline.speed == SpeedConfig() and pipeline.vlm.stored_weights == "int8"


@pytest.mark.parametrize(
    ("switches", "said"),
    [
        ({"guidance_interval": (0.7, 0.3)}, "found \\[0.7, 0.3\\]; write the smaller share first"),
        ({"compile": {"unet": []}}, "found no sizes for unet; write some, such as unet: \\[1, 3\\]"),
        ({"compile": {"vae": [1]}}, "'unet', 'tati', 'encoder' or 'decoder'"),
        ({"compile": {"unet": [0]}}, "greater than 0"),
        ({"reuse_every": 0}, "greater than 0"),
        ({"reuse_every": 2.5}, "a number with a fractional part"),
        ({"prefixes": -1}, "greater than or equal to 0"),
        ({"guidance_interval": (0, 2)}, "less than or equal to 1"),
        ({"guidance_interval": 5}, "valid tuple"),
        ({"compile": ["unet"]}, "valid dictionary"),
        ({"llm_weights": "int4"}, "'int8' or 'fp8'"),
    ],
)
def test_wrong_switches_are_named(switches: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        TypeAdapter(SpeedConfig).validate_python(switches)
    with pytest.raises(ValueError, match=f"^[^\n]*{said}[^\n]*$"):
        SpeedConfig(**switches)


def test_switches_of_python_are_converted_as_a_recipes_are() -> None:
    made = SpeedConfig(compile={"unet": [1, 3]}, guidance_interval=[0, 1], reuse_every=2)
    assert made == SpeedConfig(compile={"unet": (1, 3)}, guidance_interval=(0.0, 1.0), reuse_every=2)
    assert made == TypeAdapter(SpeedConfig).validate_python({"compile": {"unet": [1, 3]}, "reuse_every": 2})
