"""Published checkpoints are told apart by the names of their tensors, which are those of their authors' code."""

import pytest
from torch import Tensor

from fireedit.models import checkpoint_kinds as kinds
from fireedit.models.checkpoint_kinds import Kind, check_kind, kinds_of
from fireedit.models.weights import WeightsError
from tests.models.test_weights import (
    LLMS,
    clip_large,
    conv,
    det_pretrain,
    dinov2_large,
    groma_7b,
    linear,
    published,
    smartedit,
    stable_diffusion,
)

ADAPTED = [
    ("model.base_model.model.layers.0.self_attn.q_proj.lora_A.default.weight", (8, 4096)),
    ("model.base_model.model.embed_tokens.weight", (32035, 4096)),
]
VAE = [*conv("encoder.conv_in", 3, 128, 3), *conv("decoder.conv_in", 4, 512, 3), *conv("quant_conv", 8, 8, 1)]
GROMA = {**groma_7b(), **published(linear("img_txt_bridge.2", 4096, 4096)), "extra_lm_head.weight": None}
CHECKPOINTS: dict[str, tuple[dict[str, Tensor], Kind]] = {
    "dinov2": (published(dinov2_large()), kinds.DINOV2),
    "clip": (published(clip_large()), kinds.CLIP),
    "groma-7b": (GROMA, kinds.GROMA),
    "groma-det-pretrain": ({**det_pretrain(), **published(dinov2_large(), prefix="vis_encoder.")}, kinds.DETECTOR),
    **{name: (state, kinds.LLAMA) for name, state in LLMS.items() if name != "groma-7b"},
    "instruct-pix2pix": (stable_diffusion(8), kinds.UNET),
    "SmartEdit's UNet": ({f"unet.{name}": each for name, each in stable_diffusion(8).items()}, kinds.UNET),
    "VAE": (published(iter(VAE)), kinds.VAE),
    "SmartEdit's Q-Former": (published(smartedit()), kinds.SMARTEDIT_QFORMER),
    "SmartEdit's LLM": (published(iter(ADAPTED)), kinds.SMARTEDIT_LLM),
    "IP-Adapter": (
        published(iter([("ip_adapter.1.to_k_ip.weight", (1,)), ("image_proj.latents", (1,))])),
        kinds.IP_ADAPTER,
    ),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_every_published_checkpoint_is_known_with_all_its_tensors(name: str) -> None:
    state, kind = CHECKPOINTS[name]
    assert kinds_of(state)[0] is kind
    assert check_kind([*state], kind, "somewhere") == []
    assert check_kind([*state, "surprise"], kind, "somewhere") == ["surprise"]


def test_groma_and_its_detector_also_are_what_they_contain() -> None:
    assert {kinds.GROMA, kinds.DETECTOR} <= {*kinds_of(GROMA)} and kinds.GROMA not in kinds_of(det_pretrain())
    llm = {name: each for name, each in LLMS["groma-7b"].items() if name.startswith("llm.")}
    assert kinds.LLAMA in kinds_of(GROMA | llm)


@pytest.mark.parametrize("wanted", kinds.KINDS, ids=lambda kind: kind.title)
def test_any_other_is_refused_with_what_was_found_and_what_to_give(wanted: Kind) -> None:
    for name, (state, kind) in CHECKPOINTS.items():
        if wanted not in kinds_of(state):
            with pytest.raises(WeightsError) as caught:
                check_kind([*state], wanted, "part: --option folder")
            sentence = str(caught.value)
            assert sentence.startswith(f"part: --option folder: found {kind.title} ({len(state)} tensors such as "), (
                name
            )
            assert sentence.endswith(f", not {wanted.title}; give it {wanted.give}") and "\n" not in sentence


def test_an_unknown_checkpoint_is_told_by_a_name() -> None:
    with pytest.raises(WeightsError, match="found 2 tensors such as blocks.0.weight, not DINOv2"):
        check_kind(["norm.weight", "blocks.0.weight"], kinds.DINOV2, "vision: --dinov2 folder")
    with pytest.raises(WeightsError, match="found no tensors, not CLIP"):
        check_kind([], kinds.CLIP, "vision: --clip folder")
