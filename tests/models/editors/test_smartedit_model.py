"""SmartEdit's networks: BIM against a plain version, and published names and sizes on the meta device."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fireedit.models.editors.smartedit_model import BIM, BIMConfig, bim_config, build_bim, build_llm, build_qformer
from fireedit.models.qformer import QFormerConfig
from fireedit.models.weights import WeightsError

HEADS = 8


def linear(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def normed(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def attended(query: Tensor, key: Tensor, value: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    q, k, v = (
        linear(x, state, f"{name}.{part}_proj").unflatten(-1, (HEADS, -1)).transpose(1, 2)
        for x, part in ((query, "q"), (key, "k"), (value, "v"))
    )
    attention = (q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])).softmax(dim=-1)
    return linear((attention @ v).transpose(1, 2).flatten(2), state, f"{name}.out_proj")


def plain_bim(state: dict[str, Tensor], tokens: Tensor, patches: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Compute BIM of two layers from its published tensors."""
    side = math.isqrt(patches.shape[1])
    coordinates = [((i % side + 0.5) / side, (i // side + 0.5) / side) for i in range(side * side)]  # x, y
    angles = 2 * math.pi * (2 * torch.tensor(coordinates).double() - 1)
    angles = angles @ state["pe_layer.positional_encoding_gaussian_matrix"]
    place = torch.cat([angles.sin(), angles.cos()], dim=-1)
    point = linear(tokens, state, "modulate_head")
    queries, keys = point, patches
    for index in range(2):
        layer = f"modulate_transformer.layers.{index}"
        if index == 0:  # neither positions nor a residual
            queries = attended(queries, queries, queries, state, f"{layer}.self_attn")
        else:
            moved = queries + point
            queries = queries + attended(moved, moved, queries, state, f"{layer}.self_attn")
        queries = normed(queries, state, f"{layer}.norm1")
        seen = attended(queries + point, keys + place, keys, state, f"{layer}.cross_attn_token_to_image")
        queries = normed(queries + seen, state, f"{layer}.norm2")
        hidden = linear(queries, state, f"{layer}.mlp.lin1").relu()
        queries = normed(queries + linear(hidden, state, f"{layer}.mlp.lin2"), state, f"{layer}.norm3")
        told = attended(keys + place, queries + point, queries, state, f"{layer}.cross_attn_image_to_token")
        keys = normed(keys + told, state, f"{layer}.norm4")
    seen = attended(queries + point, keys + place, keys, state, "modulate_transformer.final_attn_token_to_image")
    queries = normed(queries + seen, state, "modulate_transformer.norm_final_attn")
    grid = keys.transpose(1, 2).reshape(len(keys), -1, side, side)
    grid = F.interpolate(grid, size=(size, size), mode="bilinear", align_corners=False)
    head = state["dimension_reduction_head_zeroconv.weight"][:, :, 0, 0]
    image = torch.einsum("oc,bchw->bohw", head, grid)
    image = image + state["dimension_reduction_head_zeroconv.bias"][:, None, None]
    return linear(queries, state, "dimension_reduction_head_qformer_out"), image


def published_bim(width: int, text_width: int, mlp_width: int, output_width: int) -> dict[str, tuple[int, ...]]:
    """List the names and shapes of `modulate-15000/adapter_model.bin`."""
    shapes: dict[str, tuple[int, ...]] = {"pe_layer.positional_encoding_gaussian_matrix": (2, width // 2)}

    def add(name: str, *shape: int) -> None:
        shapes.update({f"{name}.weight": shape, f"{name}.bias": shape[:1]})

    def add_attention(name: str, inner: int) -> None:
        for part in "qkv":
            add(f"{name}.{part}_proj", inner, width)
        add(f"{name}.out_proj", width, inner)

    for layer in ("modulate_transformer.layers.0", "modulate_transformer.layers.1"):
        add_attention(f"{layer}.self_attn", width)
        add_attention(f"{layer}.cross_attn_token_to_image", width // 2)
        add_attention(f"{layer}.cross_attn_image_to_token", width // 2)
        for norm in range(1, 5):
            add(f"{layer}.norm{norm}", width)
        add(f"{layer}.mlp.lin1", mlp_width, width)
        add(f"{layer}.mlp.lin2", width, mlp_width)
    add_attention("modulate_transformer.final_attn_token_to_image", width // 2)
    add("modulate_transformer.norm_final_attn", width)
    add("modulate_head", width, text_width)
    add("dimension_reduction_head_zeroconv", output_width, width, 1, 1)
    add("dimension_reduction_head_qformer_out", text_width, width)
    return shapes


def published_qformer(queries: int, width: int, layers: int, mlp_width: int, llm: int, clip: int) -> dict[str, Tensor]:
    """List the tensors of `embeddings_qformer/checkpoint-15000_embeddings_qformer.bin`, on the meta device."""
    shapes: dict[str, tuple[int, ...]] = {"sd_query_tokens": (1, queries, width), "lm_head.weight": (32035, llm)}

    def add(name: str, *shape: int) -> None:
        shapes.update({f"{name}.weight": shape, f"{name}.bias": shape[:1]})

    add("mm_projector", llm, clip)
    add("sd_qformer.embeddings.LayerNorm", width)
    shapes["sd_qformer.embeddings.position_ids"] = (1, 512)
    for index in range(layers):
        layer = f"sd_qformer.encoder.layer.{index}"
        for kind, read in ({"attention": width} | ({"crossattention": llm} if index % 2 == 0 else {})).items():
            add(f"{layer}.{kind}.self.query", width, width)
            add(f"{layer}.{kind}.self.key", width, read)
            add(f"{layer}.{kind}.self.value", width, read)
            add(f"{layer}.{kind}.output.dense", width, width)
            add(f"{layer}.{kind}.output.LayerNorm", width)
        add(f"{layer}.intermediate_query.dense", mlp_width, width)
        add(f"{layer}.output_query.dense", width, mlp_width)
        add(f"{layer}.output_query.LayerNorm", width)
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def published_llm(vocab_size: int, lora_rank: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """List the tensors of LLaVA 1.1 7B and of `LLM-15000/adapter_model.bin`, on the meta device."""
    tensors = {"embed_tokens.weight": (vocab_size, 4096), "norm.weight": (4096,)}
    lora: dict[str, tuple[int, ...]] = {}
    for index in range(32):
        layer = f"layers.{index}"
        tensors |= {f"{layer}.self_attn.{part}_proj.weight": (4096, 4096) for part in "qkvo"}
        tensors |= {f"{layer}.mlp.{part}_proj.weight": (11008, 4096) for part in ("gate", "up")}
        tensors |= {f"{layer}.mlp.down_proj.weight": (4096, 11008), f"{layer}.self_attn.rotary_emb.inv_freq": (64,)}
        tensors |= {f"{layer}.{part}_layernorm.weight": (4096,) for part in ("input", "post_attention")}
        for part in "qv":
            lora[f"{layer}.self_attn.{part}_proj.lora_A.default.weight"] = (lora_rank, 4096)
            lora[f"{layer}.self_attn.{part}_proj.lora_B.default.weight"] = (4096, lora_rank)
    meta = {name: torch.empty(shape, device="meta") for name, shape in (tensors | lora).items()}
    llava = {f"model.{name}": tensor for name, tensor in meta.items() if "lora" not in name}
    own = {f"model.base_model.model.{name}": tensor for name, tensor in meta.items()}
    own["model.base_model.model.embed_tokens.weight"] = torch.empty(vocab_size + 32, 4096, device="meta")
    return llava | {"lm_head.weight": llava["model.embed_tokens.weight"]}, own


@torch.no_grad()
def test_bim_is_the_plain_one() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = published_bim(width=32, text_width=24, mlp_width=48, output_width=20)
    state = {name: torch.randn(shape, generator=generator).double() for name, shape in shapes.items()}
    tokens = torch.randn(2, 7, 24, generator=generator).double()
    patches = torch.randn(2, 16, 32, generator=generator).double()
    text, image = build_bim(state, "test")(tokens, patches, (6, 6))
    expected_text, expected_image = plain_bim(state, tokens, patches, 6)
    assert text.shape == (2, 7, 24) and image.shape == (2, 20, 6, 6)
    torch.testing.assert_close(text, expected_text, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(image, expected_image, rtol=1e-9, atol=1e-9)


def test_bim_has_the_published_size() -> None:
    shapes = published_bim(width=1024, text_width=768, mlp_width=2048, output_width=320)
    state = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    assert bim_config(state) == BIMConfig()
    bim = build_bim(state, "test")
    counts = {name: parameter.numel() for name, parameter in bim.named_parameters()}
    assert counts.pop("positions.positional_embedding") == 2 * 512, "random frequencies, which are not trained"
    assert sum(counts.values()) == 29_211_200
    assert set(state) == {_published(name) for name in BIM(BIMConfig(width=16, layers=2)).state_dict()}


def _published(name: str) -> str:
    for ours, theirs in {
        "positions.positional_embedding": "pe_layer.positional_encoding_gaussian_matrix",
        "query_head": "modulate_head",
        "text_head": "dimension_reduction_head_qformer_out",
        "image_head": "dimension_reduction_head_zeroconv",
        "layer_norm": "norm",
    }.items():
        name = name.replace(ours, theirs)
    return f"modulate_{name}" if name.startswith("transformer.") else name


def test_the_qformer_has_the_published_size() -> None:
    state = published_qformer(queries=77, width=768, layers=6, mlp_width=3072, llm=4096, clip=1024)
    assert len(state) == 133, "as the authors count them"
    qformer, projector = build_qformer(state, "test")
    assert QFormerConfig(**{name: qformer.config[name] for name in vars(QFormerConfig())}) == QFormerConfig()
    assert (projector.in_features, projector.out_features) == (1024, 4096)


def test_llama_has_the_published_size() -> None:
    llava, own = published_llm(vocab_size=32003, lora_rank=8)
    assert len(own) == 450, "as the authors count them"
    adapter = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}
    sizes = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
    llm = build_llm(sizes, llava, adapter, own, "test")
    assert llm.get_input_embeddings().weight.shape == (32035, 4096)
    assert llm.layers[31].self_attn.v_proj.scaling["default"] == 2
    assert llm.config.rms_norm_eps == 1e-6 and llm.config.max_position_embeddings == 2048


def test_tables_of_other_tokens_are_refused() -> None:
    llava, own = {"model.embed_tokens.weight": torch.zeros(32003, 4)}, {"model.embed_tokens.weight": torch.zeros(9, 4)}
    with pytest.raises(WeightsError, match="found embeddings of 32003 and 9 tokens"):
        build_llm({}, llava, {"target_modules": []}, own, "test")
