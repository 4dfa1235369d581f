"""Published checkpoints fit the components; names and shapes below are taken from their authors' code."""

import re
from collections.abc import Iterator

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from fireedit.models import weights
from fireedit.models.detector import Detector, DetectorConfig
from fireedit.models.model import FireEdit, preset
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.region_encoder import RegionEncoder, RegionEncoderConfig
from fireedit.models.unet import EditUNet
from fireedit.models.weights import WeightsError, groma_detector, groma_region_encoder, load_strict
from tests.factories import PAPERLIKE_UNET, diffusers_sizes

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
    """Shapes of 8 heads x 1 level x 4 points on 256 channels."""
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
    """Shapes of the layers that Groma builds on, under transformers 4.32's names."""
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
    """Build a state dict of shapes alone, on the meta device."""
    return {f"{prefix}{name}": torch.empty(shape, device="meta") for part in parts for name, shape in part}


def det_pretrain() -> dict[str, Tensor]:
    """FoundationVision/groma-det-pretrain: the detector, its heads under both names, and DINOv2."""
    heads = [*groma_heads("ddetr_transformer"), *groma_heads("ddetr_transformer.decoder")]
    vision = norm("vis_encoder.layernorm", 1024)
    return published(groma_detector_without_heads(), iter(heads), vision)


def groma_7b() -> dict[str, Tensor]:
    """FoundationVision/groma-7b-finetune: all components of Groma in one file."""
    perceiver = {f"perceiver.{name}": tensor for name, tensor in det_pretrain().items()}
    others = published(linear("img_txt_bridge.0", 4096, 4096), iter([("llm.model.norm.weight", (4096,))]))
    return {**perceiver, **others, **published(groma_regions())}


def paper_detector() -> Detector:
    with torch.device("meta"):
        return Detector(DetectorConfig())


def paper_region_encoder() -> RegionEncoder:
    with torch.device("meta"):
        return RegionEncoder(RegionEncoderConfig(groma_compat=True))


@pytest.mark.parametrize("state", [det_pretrain(), groma_7b()], ids=["groma-det-pretrain", "groma-7b"])
def test_the_detector_loads_both_of_gromas_checkpoints(state: dict[str, Tensor]) -> None:
    tensors = groma_detector(state)
    assert sum(tensor.numel() for tensor in tensors.values()) == 11_377_833
    load_strict(paper_detector(), tensors, source="FoundationVision/groma-det-pretrain")


@pytest.mark.parametrize("name", ["ddetr_transformer", "ddetr_transformer.decoder"])
def test_the_detectors_heads_may_have_either_name(name: str) -> None:
    state = published(groma_detector_without_heads(), groma_heads(name))
    load_strict(paper_detector(), groma_detector(state), source="FoundationVision/groma-det-pretrain")


def test_the_region_encoder_loads_gromas_checkpoint() -> None:
    tensors = groma_region_encoder(groma_7b())
    assert sum(tensor.numel() for tensor in tensors.values()) == 288_653_056
    load_strict(paper_region_encoder(), tensors, source="FoundationVision/groma-7b-finetune")


def test_loading_copies_the_values() -> None:
    module, values = nn.Linear(3, 2), {"weight": torch.rand(2, 3), "bias": torch.rand(2)}
    load_strict(module, values, source="a file")
    assert torch.equal(module.weight, values["weight"])
    values["weight"].zero_()
    assert module.weight.abs().sum() > 0


def test_a_module_on_meta_takes_the_tensors_themselves() -> None:
    with torch.device("meta"):
        module = nn.Linear(3, 2)
    values = {"weight": torch.rand(2, 3), "bias": torch.rand(2)}
    load_strict(module, values, source="a file")
    assert module.weight.data_ptr() == values["weight"].data_ptr()


def test_an_error_lists_the_tensors_that_do_not_fit() -> None:
    state = {"0.weight": torch.zeros(2, 4), "0.bias": torch.zeros(2), "1.weight": torch.zeros(1, 2)}
    state |= {f"extra.{index}": torch.zeros(7) for index in range(6)}
    sentence = (
        "Sequential: found no 1.bias, an unknown extra.0, extra.1 and 4 more, 0.weight of shape [2, 4] in place of "
        "[2, 3]; give it the tensors of groma-det-pretrain"
    )
    with pytest.raises(WeightsError, match=re.escape(sentence)):
        load_strict(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1)), state, source="groma-det-pretrain")


def dinov2_large() -> Shapes:
    """Shapes of facebook/dinov2-large, under transformers 4's names."""
    yield "embeddings.cls_token", (1, 1, 1024)
    yield "embeddings.mask_token", (1, 1024)
    yield "embeddings.position_embeddings", (1, 37 * 37 + 1, 1024)
    yield from conv("embeddings.patch_embeddings.projection", 3, 1024, kernel=14)
    for layer in range(24):
        root = f"encoder.layer.{layer}"
        for which in (1, 2):
            yield from norm(f"{root}.norm{which}", 1024)
            yield f"{root}.layer_scale{which}.lambda1", (1024,)
        for which in ("attention.query", "attention.key", "attention.value", "output.dense"):
            yield from linear(f"{root}.attention.{which}", 1024, 1024)
        yield from linear(f"{root}.mlp.fc1", 1024, 4096)
        yield from linear(f"{root}.mlp.fc2", 4096, 1024)
    yield from norm("layernorm", 1024)


def clip_layers(root: str, count: int, width: int) -> Shapes:
    for layer in range(count):
        for which in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield from linear(f"{root}.encoder.layers.{layer}.self_attn.{which}", width, width)
        for which in ("layer_norm1", "layer_norm2"):
            yield from norm(f"{root}.encoder.layers.{layer}.{which}", width)
        yield from linear(f"{root}.encoder.layers.{layer}.mlp.fc1", width, 4 * width)
        yield from linear(f"{root}.encoder.layers.{layer}.mlp.fc2", 4 * width, width)


def clip_large() -> Shapes:
    """openai/clip-vit-large-patch14: both towers, their projections, and tables of positions."""
    yield "logit_scale", ()
    yield "text_projection.weight", (768, 768)
    yield "visual_projection.weight", (768, 1024)
    yield "text_model.embeddings.position_ids", (1, 77)
    yield "text_model.embeddings.token_embedding.weight", (49408, 768)
    yield "text_model.embeddings.position_embedding.weight", (77, 768)
    yield from clip_layers("text_model", 12, 768)
    yield from norm("text_model.final_layer_norm", 768)
    yield "vision_model.embeddings.position_ids", (1, 257)
    yield "vision_model.embeddings.class_embedding", (1024,)
    yield from conv("vision_model.embeddings.patch_embedding", 3, 1024, kernel=14, bias=False)
    yield "vision_model.embeddings.position_embedding.weight", (257, 1024)
    yield from norm("vision_model.pre_layrnorm", 1024)
    yield from clip_layers("vision_model", 24, 1024)
    yield from norm("vision_model.post_layernorm", 1024)


def llama_7b(model: str, head: str, rows: int) -> Shapes:
    yield f"{model}.embed_tokens.weight", (rows, 4096)
    for layer in range(32):
        root = f"{model}.layers.{layer}"
        for which in "qkvo":
            yield f"{root}.self_attn.{which}_proj.weight", (4096, 4096)
        yield f"{root}.self_attn.rotary_emb.inv_freq", (64,)
        for which in ("gate_proj", "up_proj"):
            yield f"{root}.mlp.{which}.weight", (11008, 4096)
        yield f"{root}.mlp.down_proj.weight", (4096, 11008)
        yield f"{root}.input_layernorm.weight", (4096,)
        yield f"{root}.post_attention_layernorm.weight", (4096,)
    yield f"{model}.norm.weight", (4096,)
    yield f"{head}.weight", (rows, 4096)


LLMS = {
    "vicuna": published(llama_7b("model", "lm_head", 32000)),
    "LLaVA 1.1": published(llama_7b("model", "lm_head", 32003), linear("model.mm_projector", 1024, 4096)),
    "llava-hf, transformers 4": published(
        llama_7b("language_model.model", "language_model.lm_head", 32064),
        clip_layers("vision_tower.vision_model", 1, 1024),
        linear("multi_modal_projector.linear_1", 1024, 4096),
    ),
    "llava-hf, transformers 5": published(
        llama_7b("model.language_model", "lm_head", 32064), clip_layers("model.vision_tower", 1, 1024)
    ),
    "groma-7b": {**groma_7b(), **published(llama_7b("llm.model", "llm.lm_head", 32000))},
}


def smartedit() -> Shapes:
    """embeddings_qformer/checkpoint-15000_embeddings_qformer.bin: 133 tensors."""
    yield from linear("mm_projector", 1024, 4096)
    yield "lm_head.weight", (32035, 4096)
    yield "sd_query_tokens", (1, 77, 768)
    yield "sd_qformer.embeddings.position_ids", (1, 512)
    yield from norm("sd_qformer.embeddings.LayerNorm", 768)
    for layer in range(6):
        root = f"sd_qformer.encoder.layer.{layer}"
        for which, width in (("attention", 768), ("crossattention", 4096))[: 1 if layer % 2 else 2]:
            yield from linear(f"{root}.{which}.self.query", 768, 768)
            yield from linear(f"{root}.{which}.self.key", width, 768)
            yield from linear(f"{root}.{which}.self.value", width, 768)
            yield from linear(f"{root}.{which}.output.dense", 768, 768)
            yield from norm(f"{root}.{which}.output.LayerNorm", 768)
        yield from linear(f"{root}.intermediate_query.dense", 768, 3072)
        yield from linear(f"{root}.output_query.dense", 3072, 768)
        yield from norm(f"{root}.output_query.LayerNorm", 768)


def stable_diffusion(in_channels: int) -> dict[str, Tensor]:
    """Shapes of the UNet under diffusers' names."""
    with torch.device("meta"):
        return UNet2DConditionModel(
            in_channels=in_channels,
            cross_attention_dim=768,
            attention_head_dim=8,
            block_out_channels=(320, 640, 1280, 1280),
        ).state_dict()


@pytest.fixture(scope="module")
def paper() -> FireEdit:
    """The whole model at the paper's sizes, on the meta device."""
    with torch.device("meta"):
        return FireEdit.from_config(preset("paper"))


@pytest.mark.parametrize("prefix", ["", "vis_encoder.", "perceiver.vis_encoder."])
def test_vision_loads_dinov2_and_clip(paper: FireEdit, prefix: str) -> None:
    dino = {**groma_7b(), **published(dinov2_large(), prefix=prefix)} if prefix else published(dinov2_large())
    tensors = weights.dinov2(dino) | weights.clip_vision(published(clip_large()))
    load_strict(paper.vision, tensors, source="facebook/dinov2-large and openai/clip-vit-large-patch14")


def test_the_text_encoder_loads_clip(paper: FireEdit) -> None:
    load_strict(paper.text_encoder, weights.clip_text(published(clip_large())), "openai/clip-vit-large-patch14")


@pytest.mark.parametrize("state", LLMS.values(), ids=LLMS)
def test_the_vlm_loads_any_llama_7b_and_gromas_adapter(paper: FireEdit, state: dict[str, Tensor]) -> None:
    llm = weights.language_model(state, 32000, ["q_proj", "v_proj"])
    assert sum(tensor.numel() for tensor in llm.values()) == 6_738_415_616
    bridge = [linear(f"img_txt_bridge.{layer}", 4096, 4096) for layer in (0, 2)]
    adapter = weights.groma_adapter(published(*bridge))
    new = {name: tensor for name, tensor in paper.vlm.state_dict().items() if ".lora_" in name or ".new_" in f".{name}"}
    load_strict(paper.vlm, {**llm, **adapter, **new}, source="an LLM and FoundationVision/groma-7b-finetune")


def test_the_qformer_loads_smartedits_checkpoint(paper: FireEdit) -> None:
    state = published(smartedit())
    assert len(state) == 133
    load_strict(paper.qformer, weights.smartedit_qformer(state), source="TencentARC/SmartEdit-7B")


@pytest.mark.parametrize("in_channels", [4, 8])
def test_the_unet_loads_stable_diffusion_and_instruct_pix2pix(paper: FireEdit, in_channels: int) -> None:
    tensors = weights.stable_diffusion_unet(stable_diffusion(in_channels))
    assert sum(tensor.numel() for tensor in tensors.values()) == 878_701_764
    load_strict(paper.unet, tensors, source="timbrooks/instruct-pix2pix")


def test_ip_adapters_weights_go_to_the_layers_they_were_trained_for(paper: FireEdit) -> None:
    crosses = [name.removesuffix(".processor") for name in paper.unet.attn_processors if ".attn2." in name]
    numbers = {name: 2 * index + 1 for index, name in enumerate(crosses)}
    file = {
        f"ip_adapter.{number}.to_{kind}_ip.weight": paper.unet.get_submodule(f"{name}.image_attention.to_{kind}").weight
        for name, number in numbers.items()
        for kind in "kv"
    }
    tensors = weights.stable_diffusion_unet(stable_diffusion(8), ip_adapter=file)
    for name, number in numbers.items():
        assert tensors[f"{name}.image_attention.to_k.weight"] is file[f"ip_adapter.{number}.to_k_ip.weight"]
    load_strict(paper.unet, tensors, source="h94/IP-Adapter")


def test_stable_diffusions_unet_ignores_the_source_at_first() -> None:
    torch.manual_seed(0)
    sizes = {**diffusers_sizes(PAPERLIKE_UNET), "in_channels": 4}
    plain, new = UNet2DConditionModel(**sizes).eval(), EditUNet(PAPERLIKE_UNET).eval()
    load_strict(new, weights.stable_diffusion_unet(plain.state_dict()), source="Stable Diffusion")
    noisy, source, tokens, details = (torch.randn(1, *s) for s in ((4, 8, 8), (4, 8, 8), (77, 96), (16, 96)))
    with torch.no_grad():
        expected = plain(noisy, 500, encoder_hidden_states=tokens).sample
        assert torch.allclose(new.predict(noisy, source, torch.tensor(500), tokens, details), expected, atol=1e-5)


@pytest.mark.parametrize("old_names", [True, False])
def test_the_vae_loads_checkpoints_of_old_and_new_names(paper: FireEdit, old_names: bool) -> None:
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    with torch.device("meta"):
        state = AutoencoderKL(**kinds, block_out_channels=(128, 256, 512, 512), layers_per_block=2).state_dict()
    if old_names:
        old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
        for new, name in old.items():
            state = {key.replace(f".attentions.0.{new}.", f".attentions.0.{name}."): t for key, t in state.items()}
        assert "encoder.mid_block.attentions.0.query.weight" in state
    load_strict(paper.vae, weights.stable_diffusion_vae(state), source="timbrooks/instruct-pix2pix")


@pytest.mark.parametrize("whole_table", [True, False])
def test_new_rows_are_smartedits_by_name_or_the_mean(whole_table: bool) -> None:
    old, rows = torch.rand(10, 4), torch.rand(35, 4)
    table = torch.cat([old, rows]) if whole_table else rows
    tokens = ["<im_start>", "<im_end>", "<roi>", "</roi>", "<img_0>", "<img_31>"]
    actual = weights.new_rows(tokens, old, table)
    mean = old.mean(dim=0)
    assert torch.equal(actual, torch.stack([rows[1], rows[2], mean, mean, rows[3], rows[34]]))
    assert torch.equal(weights.new_rows(tokens, old), mean.repeat(6, 1))


@pytest.mark.parametrize("part", ["qformer", "text_encoder"])
def test_a_fingerprint_depends_on_weights_and_not_on_their_precision(part: str) -> None:
    first, again, other = (getattr(FireEditPipeline.fresh(seed), part) for seed in (0, 0, 1))
    whole = weights.fingerprint(first)
    assert re.fullmatch("[0-9a-f]{8}", whole)
    assert whole == weights.fingerprint(again) != weights.fingerprint(other)
    assert whole == weights.fingerprint(again.bfloat16()) == weights.fingerprint(again.float())
    next(again.parameters()).data.flatten()[0] += 1
    assert whole != weights.fingerprint(again), "one number among all"


def test_rows_of_smartedits_first_stage_are_refused() -> None:
    with pytest.raises(WeightsError, match="33 rows.*35 or 45"):
        weights.new_rows(["<img_0>"], torch.rand(10, 4), torch.rand(33, 4))


def norms(scale: float) -> dict[str, Tensor]:
    """LLaMA's norms, whose first is small, times a scale."""
    means = {"model.layers.0.input_layernorm": 0.03, "model.layers.1.input_layernorm": 0.4, "model.norm": 1.8}
    return {f"{name}.weight": torch.full((8,), scale * mean) for name, mean in means.items()}


@pytest.mark.parametrize("prefix", ["", "llm.", "language_model."])
def test_llamas_norms_are_no_deltas(prefix: str) -> None:
    others = {"vision_tower.norm.weight": torch.zeros(8)}
    weights.require_merged({f"{prefix}{name}": tensor for name, tensor in norms(1).items()} | others, "a folder")
    weights.require_merged(others, "a folder")


@pytest.mark.parametrize(("extra", "tool"), [("model.mm_projector.weight", "llava"), ("lm_head.weight", "fastchat")])
def test_a_delta_is_refused_with_the_tool_that_merges_it(extra: str, tool: str) -> None:
    with pytest.raises(
        WeightsError, match=rf"^a folder: found a delta.*python -m {tool}.model.apply_delta --base"
    ) as e:
        weights.require_merged({**norms(0.001), extra: torch.ones(2)}, "a folder")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "name",
    [
        "model.base_model.model.layers.0.q_proj.{}",
        "base_model.model.layers.0.q_proj.{}",
        "base_model.model.model.layers.0.q_proj.{}",
    ],
)
def test_smartedits_llm_has_pefts_names_of_any_version(name: str) -> None:
    tails = {"lora_A.weight": "lora_A.default.weight", "lora_B.default.weight": "lora_B.default.weight"}
    tails |= {"base_layer.weight": "weight", "bias": "bias"}
    for published, plain in tails.items():
        assert [*weights.smartedit_llm({name.format(published): torch.zeros(1)})] == [f"model.layers.0.q_proj.{plain}"]


def test_smartedits_unet_may_have_a_prefix() -> None:
    plain = {"conv_in.weight": torch.zeros(1), "conv_out.weight": torch.zeros(1)}
    prefixed = {f"unet.{name}": tensor for name, tensor in plain.items()} | {"step": torch.zeros(1)}
    assert weights.smartedit_unet(plain) == weights.smartedit_unet(prefixed) == plain
