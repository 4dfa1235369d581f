"""Published weights under our modules' names: one function for each published part, from state dict to state dict."""

import hashlib
import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

SMARTEDIT_TOKENS = ("<img>", "<im_start>", "<im_end>", *(f"<img_{index}>" for index in range(32)))
"""What the last 35 rows of SmartEdit's tables stand for; its first stage had no marks of the image, so 33."""


class WeightsError(Exception):
    """The tensors of a file do not fit the module that should take them."""


def fingerprint(module: nn.Module) -> str:
    """A short hash of a module's weights as bfloat16, so that saving them in half precision does not change it."""
    digest = hashlib.blake2b(digest_size=4)
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().bfloat16().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def dinov2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Vision's `dino.*` out of `facebook/dinov2-large` or any file of Groma's, which all hold it."""
    tensors = {}
    for name, tensor in state.items():
        name = re.sub(r"^(perceiver\.)?vis_encoder\.", "", name)
        if name.startswith(("embeddings.", "encoder.", "layernorm.")):
            name = re.sub(r"\.attention\.attention\.([qkv])(uery|ey|alue)\.", r".attention.\1_proj.", name)
            tensors["dino." + name.replace(".attention.output.dense.", ".attention.o_proj.")] = tensor
    return tensors


def clip_vision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Vision's `clip.*` out of `openai/clip-vit-large-patch14`."""
    return {f"clip.{name}": tensor for name, tensor in _below("vision_model.", state).items() if _is_weight(name)}


def clip_text(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The text encoder's tensors out of `openai/clip-vit-large-patch14` or Stable Diffusion's `text_encoder`."""
    return {name: tensor for name, tensor in _below("text_model.", state).items() if _is_weight(name)}


def groma_detector(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The Detector's tensors out of `FoundationVision/groma-det-pretrain` or any `FoundationVision/groma-7b-*`.

    Both hold DINOv2 too, and the 7b files the rest of Groma; that is left out. Groma's decoder names the heads a second
    time (`decoder.bbox_embed` is `bbox_embed`); whichever of the two names a file kept will do. transformers has since
    renamed parts of the layers.
    """
    tensors = {}
    for name, tensor in state.items():
        name = name.removeprefix("perceiver.")
        if name.startswith("input_proj."):
            tensors[name] = tensor
        elif name.startswith("ddetr_transformer."):
            name = name.removeprefix("ddetr_transformer.")
            name = re.sub(r"^decoder\.(bbox_embed|class_embed)", r"\1", name)
            name = re.sub(r"\.layers\.(\d+)\.(fc[12])\.", r".layers.\1.mlp.\2.", name)
            tensors[name.replace(".self_attn.out_proj.", ".self_attn.o_proj.")] = tensor
    return tensors


def groma_region_encoder(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The RegionEncoder's tensors out of any `FoundationVision/groma-7b-*`; it needs `groma_compat=True`."""
    return _below("region_encoder.", state)


def groma_adapter(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The VLM's `adapter.*` out of any `FoundationVision/groma-7b-*`."""
    return {f"adapter.{name}": tensor for name, tensor in _below("img_txt_bridge.", state).items()}


def language_model(state: Mapping[str, Tensor], vocab_size: int, lora_targets: Sequence[str]) -> dict[str, Tensor]:
    """The VLM's `llm.*`, all but LoRA, out of Vicuna, LLaVA (the original or `llava-hf`) or any `groma-7b-*`.

    Rows behind `vocab_size` stand for tokens that our prompts do not use, and go; so do eyes and projectors.
    """
    tensors = {}
    for name, tensor in state.items():
        name = re.sub(r"^(llm|language_model)\.", "", name).replace("model.language_model.", "model.")
        if not re.match(r"(model\.(embed_tokens|layers|norm)|lm_head)\.", name) or not _is_weight(name):
            continue
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            tensor = tensor[:vocab_size]
        if name.split(".")[-2] in lora_targets:
            name = name.replace(".weight", ".base_layer.weight")
        tensors[f"llm.{name}"] = tensor
    return tensors


def smartedit_qformer(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The QFormer's tensors out of `TencentARC/SmartEdit-7B`, `embeddings_qformer/checkpoint-*.bin`."""
    tensors = {"query_tokens": state["sd_query_tokens"]} if "sd_query_tokens" in state else {}
    for name, tensor in _below("sd_qformer.", state).items():
        if _is_weight(name):
            name = name.replace("embeddings.LayerNorm.", "layernorm.").replace(
                "attention.self.", "attention.attention."
            )
            tensors[f"blip2.{name}"] = tensor
    return tensors


def new_rows(tokens: Sequence[str], old: Tensor, smartedit: Tensor | None = None) -> Tensor:
    """Rows for `tokens`: SmartEdit's by name where it has them, otherwise the mean of the old rows, as SmartEdit began.

    Args:
        old: [V, D], the published rows.
        smartedit: [35, D] or [V + 35, D], its table of the same kind.
    Raises:
        WeightsError: the table has another number of rows: those of SmartEdit's first stage mean other tokens.
    """
    rows = old.float().mean(dim=0).repeat(len(tokens), 1)
    if smartedit is None:
        return rows
    count = len(SMARTEDIT_TOKENS)
    if len(smartedit) not in (count, len(old) + count):
        raise WeightsError(f"SmartEdit's table has {len(smartedit)} rows; give one of {count} or {len(old) + count}")
    published = dict(zip(SMARTEDIT_TOKENS, smartedit[-count:], strict=True))
    for index, token in enumerate(tokens):
        if token in published:
            rows[index] = published[token]
    return rows


def stable_diffusion_unet(
    state: Mapping[str, Tensor], ip_adapter: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """EditUNet's tensors out of `timbrooks/instruct-pix2pix`, or of Stable Diffusion 1.5, which knows no source.

    Args:
        ip_adapter: `h94/IP-Adapter`, `models/ip-adapter-plus_sd15.safetensors`, for its image attention; without it
            that starts as a no-op: the text's keys and zero values.
    """
    tensors, conv_in, latents = dict(state), state["conv_in.weight"], len(state["conv_out.weight"])
    source = conv_in.new_zeros(len(conv_in), 2 * latents - conv_in.shape[1], *conv_in.shape[2:])
    tensors["conv_in.weight"] = torch.cat([conv_in, source], dim=1)
    layers = [name.removesuffix(".to_k.weight") for name in state if name.endswith(".attn2.to_k.weight")]
    for index, layer in enumerate(sorted(layers, key=_ip_adapter_order)):
        if ip_adapter is None:
            keys, values = state[f"{layer}.to_k.weight"].clone(), torch.zeros_like(state[f"{layer}.to_v.weight"])
        else:  # it counts self-attentions too
            keys, values = (ip_adapter[f"ip_adapter.{2 * index + 1}.to_{kind}_ip.weight"] for kind in "kv")
        tensors[f"{layer}.processor.to_k_ip.0.weight"] = keys
        tensors[f"{layer}.processor.to_v_ip.0.weight"] = values
    return tensors


def stable_diffusion_vae(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The VAE's tensors out of the same; files from before diffusers 0.15 name its attention otherwise."""
    renamed = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    pattern = r"(\.attentions\.0)\.(query|key|value|proj_attn)\."
    return {re.sub(pattern, lambda m: f"{m[1]}.{renamed[m[2]]}.", name): tensor for name, tensor in state.items()}


def load_strict(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Put `state` into `module`: every tensor that it has, no other.

    A module made on the meta device takes the tensors themselves, others copy them.

    Args:
        source: what the tensors should come from, for the error.
    Raises:
        WeightsError: tensors are missing, unexpected or of another shape.
    """
    wanted = module.state_dict()
    shared = [name for name in wanted if name in state]
    problems = {
        "missing": [f"{name} {list(wanted[name].shape)}" for name in wanted if name not in state],
        "unexpected": [f"{name} {list(state[name].shape)}" for name in state if name not in wanted],
        "of another shape": [
            f"{name} {list(state[name].shape)} where {list(wanted[name].shape)} belongs"
            for name in shared
            if state[name].shape != wanted[name].shape
        ],
    }
    if any(problems.values()):
        lines = [f"  {len(found)} {kind}: {_few(found)}" for kind, found in problems.items() if found]
        raise WeightsError(
            f"{type(module).__name__}: {len(shared)} of its {len(wanted)} tensors are there\n"
            + "\n".join(lines)
            + f"\n  give it the tensors of {source}"
        )
    module.load_state_dict(dict(state), assign=any(tensor.is_meta for tensor in wanted.values()))


def _below(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names start with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _is_weight(name: str) -> bool:
    """Whether a tensor is more than a table that old files carry and every module can make anew."""
    return not name.endswith(("position_ids", "rotary_emb.inv_freq"))


def _ip_adapter_order(layer: str) -> tuple[int, ...]:
    """IP-Adapter numbers layers as diffusers' UNet lists them: down, up, middle."""
    return ("down_blocks", "up_blocks", "mid_block").index(layer.split(".")[0]), *map(int, re.findall(r"\d+", layer))


def _few(entries: Sequence[str], most: int = 4) -> str:
    """The first few entries as one line."""
    return ", ".join(entries[:most]) + (", ..." if len(entries) > most else "")
