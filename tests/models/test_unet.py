"""The UNet equals Stable Diffusion's until its image attention is trained."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.models.resnet import ResnetBlock2D
from safetensors.torch import load_file, save_file
from torch import Tensor

from fireedit.models.model import preset
from fireedit.models.unet import DecoupledAttention, EditUNet, UNetConfig
from fireedit.models.weights import WeightsError
from tests.factories import PAPERLIKE_UNET, diffusers_sizes, shaken

NANO = preset("nano").unet


@pytest.fixture(scope="module")
def fresh() -> EditUNet:
    """Read only."""
    torch.manual_seed(0)
    return EditUNet(PAPERLIKE_UNET).eval()


@pytest.fixture(scope="module")
def trained() -> EditUNet:
    torch.manual_seed(0)
    return shaken(EditUNet(PAPERLIKE_UNET).eval())


@pytest.fixture(scope="module")
def inputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    noisy, source = torch.randn(2, 2, 4, 8, 8, generator=generator)
    tokens = torch.randn(2, 77, 96, generator=generator)
    return {"noisy": noisy, "source": source, "timesteps": torch.tensor([3.0, 801.5]), "tokens": tokens}


def decoupled(unet: EditUNet) -> list[DecoupledAttention]:
    return [part for part in unet.modules() if isinstance(part, DecoupledAttention)]


def details(seed: int = 5) -> Tensor:
    return torch.randn(2, 16, 96, generator=torch.Generator().manual_seed(seed))


def plain_with_the_weights_of(unet: EditUNet) -> UNet2DConditionModel:
    plain = UNet2DConditionModel(**diffusers_sizes(PAPERLIKE_UNET)).eval()
    plain.load_state_dict(
        {name: tensor for name, tensor in unet.state_dict().items() if ".image_attention." not in name}
    )
    return plain


def test_the_papers_is_stable_diffusions_with_source_channels() -> None:
    """Config and weights agree, except for the image attention."""
    with torch.device("meta"):
        unet = EditUNet(preset("paper").unet)
        published = UNet2DConditionModel(
            sample_size=64,
            in_channels=8,
            out_channels=4,
            block_out_channels=(320, 640, 1280, 1280),
            layers_per_block=2,
            attention_head_dim=8,
            cross_attention_dim=768,
        )
    shapes = {name: tensor.shape for name, tensor in unet.state_dict().items() if ".image_attention." not in name}
    assert shapes == {name: tensor.shape for name, tensor in published.state_dict().items()}
    added = {"reads_last_token": False, "adds_source": False, "detail_tokens": 16, "detail_scale": 1.0}
    config = {name: value for name, value in unet.config.items() if name != "_use_default_values"}
    assert config == {name: value for name, value in {**published.config, **added}.items() if name in config}
    assert config.keys() == {*published.config, *added} - {"_use_default_values"}


def test_the_image_attention_starts_as_an_exact_no_op(fresh: EditUNet, inputs: dict[str, Tensor]) -> None:
    with torch.no_grad():
        without = fresh.predict(**inputs, detail_tokens=None)
        assert torch.equal(fresh.predict(**inputs, detail_tokens=details()), without)


def test_without_details_it_equals_stable_diffusions_unet(trained: EditUNet, inputs: dict[str, Tensor]) -> None:
    plain = plain_with_the_weights_of(trained)
    with torch.no_grad():
        expected = plain(
            torch.cat([inputs["noisy"], inputs["source"]], dim=1),
            inputs["timesteps"],
            encoder_hidden_states=inputs["tokens"],
        ).sample
        assert torch.allclose(trained.predict(**inputs, detail_tokens=None), expected, atol=1e-5)


def test_image_keys_start_as_the_texts_and_image_values_as_zero(fresh: EditUNet) -> None:
    attentions = decoupled(fresh)
    assert len(attentions) == sum(name.endswith("attn2.processor") for name in fresh.attn_processors) > 0
    for attention in attentions:
        assert torch.equal(attention.image_attention.to_k.weight, attention.to_k.weight)
        assert attention.image_attention.to_v.weight.abs().max() == 0


def test_trained_image_attention_adds_to_the_text_attention(trained: EditUNet) -> None:
    """Output is softmax(Q K1) V1 + lambda softmax(Q K2) V2, through a shared projection."""
    attention = trained.down_blocks[0].attentions[0].transformer_blocks[0].attn2
    generator = torch.Generator().manual_seed(3)
    hidden, tokens, detail = (torch.randn(1, n, w, generator=generator) for n, w in ((9, 64), (77, 96), (16, 96)))
    image = attention.image_attention

    def attend(key: Tensor, value: Tensor) -> Tensor:
        query, key, value = (x.unflatten(-1, (4, 16)).transpose(1, 2) for x in (attention.to_q(hidden), key, value))
        return (torch.softmax(query @ key.transpose(-1, -2) / 16**0.5, dim=-1) @ value).transpose(1, 2).flatten(2)

    both = attend(attention.to_k(tokens), attention.to_v(tokens)) + 1.0 * attend(image.to_k(detail), image.to_v(detail))
    got = attention(hidden, encoder_hidden_states=(tokens, detail))
    assert torch.allclose(got, attention.to_out[0](both), atol=1e-5)


def test_the_output_depends_on_fractional_timesteps(trained: EditUNet, inputs: dict[str, Tensor]) -> None:
    with torch.no_grad():
        at = [trained.predict(**{**inputs, "timesteps": torch.tensor(t)}, detail_tokens=None) for t in (500.0, 500.5)]
    assert (at[0] - at[1]).abs().max() > 1e-6


def test_saving_and_loading_keeps_the_image_attention(
    trained: EditUNet, inputs: dict[str, Tensor], tmp_path: Path
) -> None:
    trained.save_pretrained(tmp_path)
    loaded = EditUNet.from_pretrained(tmp_path).eval()
    assert loaded.state_dict().keys() == trained.state_dict().keys()
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in trained.state_dict().items())
    with torch.no_grad():
        pictures = [unet.predict(**inputs, detail_tokens=details()) for unet in (trained, loaded)]
    assert torch.equal(*pictures)


@pytest.mark.parametrize(
    "switch",
    [
        lambda unet: unet.set_default_attn_processor(),
        lambda unet: unet.set_attn_processor(AttnProcessor2_0()),
        lambda unet: unet.set_attention_slice("max"),
        lambda unet: unet.fuse_qkv_projections(),
        lambda unet: unet.fuse_qkv_projections() or unet.unfuse_qkv_projections(),
    ],
    ids=["default", "sdpa", "sliced", "fused", "unfused"],
)
def test_a_processor_of_diffusers_changes_neither_weights_nor_result(inputs: dict[str, Tensor], switch: Any) -> None:
    torch.manual_seed(0)
    unet = shaken(EditUNet(PAPERLIKE_UNET).eval())
    weights = dict(unet.state_dict())
    with torch.no_grad():
        before = unet.predict(**inputs, detail_tokens=details())
        switch(unet)
        assert torch.allclose(unet.predict(**inputs, detail_tokens=details()), before, atol=1e-4)
    assert all(torch.equal(unet.state_dict()[name], tensor) for name, tensor in weights.items())


def test_weights_without_a_tensor_are_refused_by_its_name(fresh: EditUNet, tmp_path: Path) -> None:
    fresh.save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    old = {name.replace("image_attention.to_k", "to_k_ip"): tensor for name, tensor in load_file(path).items()}
    save_file(old, path, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match="lacks 7 tensors of EditUNet, such as .*image_attention.to_k.*to_k_ip"):
        EditUNet.from_pretrained(tmp_path)


def test_checkpointing_gives_the_same_gradients(inputs: dict[str, Tensor]) -> None:
    torch.manual_seed(0)
    unet, gradients = shaken(EditUNet(PAPERLIKE_UNET)), []
    for _ in range(2):
        tokens, detail = inputs["tokens"].clone().requires_grad_(), details().requires_grad_()
        unet.predict(**{**inputs, "tokens": tokens}, detail_tokens=detail).square().mean().backward()
        gradients.append([tokens.grad, detail.grad, *(p.grad.clone() for p in unet.parameters())])
        unet.zero_grad()
        unet.enable_gradient_checkpointing()
    for plain, checkpointed in zip(*gradients, strict=True):
        assert torch.allclose(plain, checkpointed, rtol=1e-4, atol=1e-7)


def test_lambda_is_read_from_the_config(tmp_path: Path) -> None:
    unet = EditUNet(UNetConfig(**{**vars(PAPERLIKE_UNET), "detail_scale": 0.5}))
    unet.save_pretrained(tmp_path)
    loaded = EditUNet.from_pretrained(tmp_path)
    assert {attention.detail_scale for attention in decoupled(loaded)} == {0.5}


# What nano's does beside: it reads the last token everywhere, and adds to the source


def nano_inputs(seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    noisy, source = torch.randn(2, 2, 48, 16, 16, generator=generator)
    tokens, details = (torch.randn(2, length, 96, generator=generator) for length in (77, 16))
    return {
        "noisy": noisy,
        "source": source,
        "timesteps": torch.tensor([0, 999]),
        "tokens": tokens,
        "detail_tokens": details,
    }


@torch.no_grad()
@pytest.mark.parametrize("seed", [1, 2])
def test_a_fresh_unet_that_adds_its_source_is_a_perfect_copy_whatever_the_noise(seed: int) -> None:
    unet, inputs = EditUNet(NANO).eval(), nano_inputs(seed)
    assert torch.equal(unet.predict(**inputs), inputs["source"])
    dropped = {**inputs, "source": torch.zeros_like(inputs["source"])}
    assert unet.predict(**dropped).abs().max() == 0, "zeros in, zeros out"


@torch.no_grad()
def test_nanos_equals_diffusers_unet_with_the_last_token_for_its_class() -> None:
    unet, inputs = shaken(EditUNet(NANO).eval(), scale=0.02), nano_inputs()
    plain = UNet2DConditionModel(**diffusers_sizes(NANO)).eval()
    plain.load_state_dict(
        {name: tensor for name, tensor in unet.state_dict().items() if ".image_attention." not in name}
    )
    expected = (
        inputs["source"]
        + plain(
            torch.cat([inputs["noisy"], inputs["source"]], dim=1),
            inputs["timesteps"],
            encoder_hidden_states=inputs["tokens"],
            class_labels=inputs["tokens"][:, 76],
        ).sample
    )
    assert torch.allclose(unet.predict(**{**inputs, "detail_tokens": None}), expected, atol=1e-5)


def modulations(unet: EditUNet, inputs: dict[str, Tensor]) -> list[Tensor]:
    """Record the time embedding that every residual block reads."""
    read: list[Tensor] = []
    blocks = [module for module in unet.modules() if isinstance(module, ResnetBlock2D)]
    hooks = [block.register_forward_pre_hook(lambda _, args: read.append(args[1])) for block in blocks]
    unet.predict(**inputs)
    for hook in hooks:
        hook.remove()
    assert len(read) == len(blocks)
    return read


@torch.no_grad()
def test_the_last_token_modulates_every_block_and_none_of_the_papers() -> None:
    nano, inputs = shaken(EditUNet(NANO).eval(), scale=0.02), nano_inputs()
    tokens = inputs["tokens"].clone()
    tokens[:, 76] += 1
    changed = {**inputs, "tokens": tokens}
    assert not any(
        torch.equal(*pair) for pair in zip(modulations(nano, inputs), modulations(nano, changed), strict=True)
    )
    assert (nano.predict(**inputs) - nano.predict(**changed)).abs().max() > 1e-4
    tokens = inputs["tokens"].clone()
    tokens[:, :76] += 1
    others = modulations(nano, {**inputs, "tokens": tokens})
    assert all(torch.equal(*pair) for pair in zip(modulations(nano, inputs), others, strict=True)), (
        "the others only by attention"
    )

    paper = shaken(EditUNet(PAPERLIKE_UNET).eval(), scale=0.02)
    small = {name: tensor[:, :4, :8, :8] if name in ("noisy", "source") else tensor for name, tensor in changed.items()}
    before = {**small, "tokens": inputs["tokens"]}
    assert paper.class_embedding is None
    assert all(torch.equal(*pair) for pair in zip(modulations(paper, before), modulations(paper, small), strict=True))


@torch.no_grad()
def test_nanos_options_are_saved_and_loaded(tmp_path: Path) -> None:
    unet, inputs = shaken(EditUNet(NANO).eval(), scale=0.02), nano_inputs()
    unet.save_pretrained(tmp_path)
    loaded = EditUNet.from_pretrained(tmp_path).eval()
    assert all(loaded.config[name] == unet.config[name] for name in vars(NANO))
    assert torch.equal(loaded.predict(**inputs), unet.predict(**inputs))
