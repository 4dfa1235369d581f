"""Groma's published files fit our modules; the names and shapes below are written from Groma's code, not from ours."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from fireedit.models.detector import Detector, DetectorConfig
from fireedit.models.region_encoder import RegionEncoder, RegionEncoderConfig
from fireedit.models.weights import WeightsError, groma_detector, groma_region_encoder, load_strict

Shapes = Iterator[tuple[str, tuple[int, ...]]]


def linear(name: str, width_in: int, width_out: int) -> Shapes:
    yield f"{name}.weight", (width_out, width_in)
    yield f"{name}.bias", (width_out,)


def norm(name: str, width: int) -> Shapes:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def conv(name: str, width_in: int, width_out: int, kernel: int, bias: bool = True) -> Shapes:
    yield f"{name}.weight", (width_out, width_in, kernel, kernel)
    if bias:
        yield f"{name}.bias", (width_out,)


def deformable_attention(name: str) -> Shapes:
    """8 heads x 1 level x 4 points on 256 channels."""
    yield from linear(f"{name}.sampling_offsets", 256, 64)
    yield from linear(f"{name}.attention_weights", 256, 32)
    yield from linear(f"{name}.value_proj", 256, 256)
    yield from linear(f"{name}.output_proj", 256, 256)


def feed_forward(name: str) -> Shapes:
    yield from linear(f"{name}.fc1", 256, 1024)
    yield from linear(f"{name}.fc2", 1024, 256)
    yield from norm(f"{name}.final_layer_norm", 256)


def groma_heads(name: str) -> Shapes:
    yield from linear(f"{name}.class_embed_enc", 256, 1)
    for layer in range(6):
        yield from linear(f"{name}.class_embed_coco.{layer}", 256, 1)
        yield from linear(f"{name}.class_embed_sa1b.{layer}", 256, 1)
    for layer in range(7):
        yield from linear(f"{name}.bbox_embed.{layer}.layers.0", 256, 256)
        yield from linear(f"{name}.bbox_embed.{layer}.layers.1", 256, 256)
        yield from linear(f"{name}.bbox_embed.{layer}.layers.2", 256, 4)


def groma_detector_without_heads() -> Shapes:
    """As transformers 4.32 names the layers that Groma builds on."""
    yield from conv("input_proj.0.0", 1024, 256, kernel=1)
    yield from norm("input_proj.0.1", 256)
    root = "ddetr_transformer"
    for layer in range(6):
        encoder, decoder = f"{root}.encoder.layers.{layer}", f"{root}.decoder.layers.{layer}"
        yield from deformable_attention(f"{encoder}.self_attn")
        yield from norm(f"{encoder}.self_attn_layer_norm", 256)
        yield from feed_forward(encoder)
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield from linear(f"{decoder}.self_attn.{part}", 256, 256)
        yield from norm(f"{decoder}.self_attn_layer_norm", 256)
        yield from deformable_attention(f"{decoder}.encoder_attn")
        yield from norm(f"{decoder}.encoder_attn_layer_norm", 256)
        yield from feed_forward(decoder)
    yield f"{root}.level_embed", (1, 256)
    yield f"{root}.query_position_embeddings.weight", (300, 256)
    yield from linear(f"{root}.enc_output", 256, 256)
    yield from norm(f"{root}.enc_output_norm", 256)
    yield from linear(f"{root}.pos_trans", 512, 512)
    yield from norm(f"{root}.pos_trans_norm", 512)


def groma_regions() -> Shapes:
    for level in range(3):
        yield from conv(f"region_encoder.mlvl_fuse.input_conv.{level}", 1026, 1024, kernel=1)
    for block in range(5):
        yield from conv(f"region_encoder.mlvl_fuse.fuse_convs.{block}.conv", 1024, 1024, kernel=3, bias=False)
        yield from norm(f"region_encoder.mlvl_fuse.fuse_convs.{block}.gn", 1024)
    for level in range(3):
        yield from conv(f"region_encoder.roi_align.pconvs.{level}", 1024, 1024, kernel=3)
    yield from linear("region_encoder.roi_align.pos_embedd.0", 4, 256)
    yield from norm("region_encoder.roi_align.pos_embedd.2", 256)
    yield from linear("region_encoder.roi_align.pos_embedd.3", 256, 1024)
    yield from norm("region_encoder.roi_align.pos_embedd.5", 1024)
    yield from linear("region_encoder.roi_align.updims", 1024, 4096)
    yield from linear("region_encoder.roi_align.flatten_linear", 1024 * 14 * 14, 1024)


def published(*parts: Shapes, prefix: str = "") -> dict[str, Tensor]:
    """A state dict without data: the meta device holds shapes only."""
    return {f"{prefix}{name}": torch.empty(shape, device="meta") for part in parts for name, shape in part}


def det_pretrain() -> dict[str, Tensor]:
    """FoundationVision/groma-det-pretrain: the detector, its heads under both names, and DINOv2."""
    heads = [*groma_heads("ddetr_transformer"), *groma_heads("ddetr_transformer.decoder")]
    vision = norm("vis_encoder.layernorm", 1024)
    return published(groma_detector_without_heads(), iter(heads), vision)


def groma_7b() -> dict[str, Tensor]:
    """FoundationVision/groma-7b-finetune, as far as it matters here: all parts of Groma in one file."""
    perceiver = {f"perceiver.{name}": tensor for name, tensor in det_pretrain().items()}
    others = published(linear("img_txt_bridge.0", 4096, 4096), norm("llm.model.norm", 4096))
    return {**perceiver, **others, **published(groma_regions())}


def paper_detector() -> Detector:
    with torch.device("meta"):
        return Detector(DetectorConfig())


def paper_region_encoder() -> RegionEncoder:
    with torch.device("meta"):
        return RegionEncoder(RegionEncoderConfig(groma_compat=True))


@pytest.mark.parametrize("state", [det_pretrain(), groma_7b()], ids=["groma-det-pretrain", "groma-7b"])
def test_the_detector_takes_either_of_gromas_files(state: dict[str, Tensor]) -> None:
    tensors = groma_detector(state)
    assert sum(tensor.numel() for tensor in tensors.values()) == 11_377_833
    load_strict(paper_detector(), tensors, source="FoundationVision/groma-det-pretrain")


@pytest.mark.parametrize("name", ["ddetr_transformer", "ddetr_transformer.decoder"])
def test_the_detectors_heads_may_have_either_of_their_names(name: str) -> None:
    state = published(groma_detector_without_heads(), groma_heads(name))
    load_strict(paper_detector(), groma_detector(state), source="FoundationVision/groma-det-pretrain")


def test_the_region_encoder_takes_gromas_file() -> None:
    tensors = groma_region_encoder(groma_7b())
    assert sum(tensor.numel() for tensor in tensors.values()) == 288_653_056
    load_strict(paper_region_encoder(), tensors, source="FoundationVision/groma-7b-finetune")


def test_the_layers_that_transformers_renamed_are_renamed() -> None:
    tensors = groma_detector(det_pretrain())
    assert tensors["decoder.layers.5.self_attn.o_proj.weight"].shape == (256, 256)
    assert tensors["encoder.layers.0.mlp.fc1.weight"].shape == (1024, 256)
    assert tensors["encoder.layers.0.self_attn.output_proj.weight"].shape == (256, 256)
    assert not any(name.startswith(("decoder.bbox_embed", "decoder.class_embed")) for name in tensors)


def test_loading_copies_the_values() -> None:
    module, values = nn.Linear(3, 2), {"weight": torch.rand(2, 3), "bias": torch.rand(2)}
    load_strict(module, values, source="a file")
    assert torch.equal(module.weight, values["weight"])
    values["weight"].zero_()
    assert module.weight.abs().sum() > 0


def test_a_module_without_memory_takes_the_tensors_themselves() -> None:
    with torch.device("meta"):
        module = nn.Linear(3, 2)
    values = {"weight": torch.rand(2, 3), "bias": torch.rand(2)}
    load_strict(module, values, source="a file")
    assert module.weight.data_ptr() == values["weight"].data_ptr()


def test_a_misfit_is_told_tensor_by_tensor() -> None:
    first = nn.Linear(3, 2)
    before = first.bias.clone()
    state = {"0.weight": torch.zeros(2, 4), "0.bias": torch.zeros(2), "1.weight": torch.zeros(1, 2)}
    state |= {f"extra.{index}": torch.zeros(7) for index in range(6)}
    with pytest.raises(WeightsError) as caught:
        load_strict(nn.Sequential(first, nn.Linear(2, 1)), state, source="FoundationVision/groma-det-pretrain")
    assert str(caught.value).splitlines() == [
        "Sequential: 3 of its 4 tensors are there",
        "  1 missing: 1.bias [1]",
        "  6 unexpected: extra.0 [7], extra.1 [7], extra.2 [7], extra.3 [7], ...",
        "  1 of another shape: 0.weight [2, 4] where [2, 3] belongs",
        "  give it the tensors of FoundationVision/groma-det-pretrain",
    ]
    assert torch.equal(first.bias, before)


def test_a_file_of_another_model_is_refused() -> None:
    with pytest.raises(WeightsError, match="0 of its .* tensors are there"):
        load_strict(paper_detector(), groma_detector(published(norm("llm.norm", 8))), "FoundationVision/groma-7b-*")
