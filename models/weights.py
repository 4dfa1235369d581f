"""Conversion of published weights: one function per checkpoint, from its state dict to that of a component."""

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)

SMARTEDIT_TOKENS = ("<img>", "<im_start>", "<im_end>", *(f"<img_{index}>" for index in range(32)))
"""Tokens of the last 35 rows of SmartEdit's tables; its first stage had no marks of the image, so 33."""

LLAMA_PREFIX, LLAMA_NAMES = (
    r"((llm|language_model)\.)?",
    r"(model\.(language_model\.)?(embed_tokens|layers|norm)|lm_head)\.",
)
"""Patterns of the names of a LLaMA's tensors, alone or inside Groma and LLaVA."""
TABLES = ("llm.model.embed_tokens.weight", "llm.lm_head.weight")
"""The VLM's tables with a row for each old token."""
DELTA_NORM = 0.1
"""Mean absolute weight of a norm, below which all norms of a delta are."""


class WeightsError(ValueError):
    """Tensors of a checkpoint do not fit the module."""


def fingerprint(module: nn.Module) -> str:
    """Compute a short hash of a module's weights as bfloat16, unchanged by saving in half precision."""
    digest = hashlib.blake2b(digest_size=4)
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().bfloat16().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def dinov2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Extract Vision's `dino.*` from `facebook/dinov2-large` or any Groma checkpoint; all contain it."""
    return _renamed(
        state,
        (r"^((perceiver\.)?vis_encoder\.)?(?=(embeddings|encoder|layernorm)\.)", "dino."),
        (r"\.attention\.attention\.([qkv])(uery|ey|alue)\.", r".attention.\1_proj."),
        (r"\.attention\.output\.dense\.", ".attention.o_proj."),
    )


def clip_vision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Extract Vision's `clip.*` from `openai/clip-vit-large-patch14`."""
    return _renamed(state, (r"^vision_model\.", "clip."))


def clip_text(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Extract the text encoder from `openai/clip-vit-large-patch14` or Stable Diffusion's `text_encoder`."""
    return _renamed(state, (r"^text_model\.", ""))


def groma_detector(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Extract the Detector from `FoundationVision/groma-det-pretrain` or any `FoundationVision/groma-7b-*`.

    The rest of these checkpoints is omitted. Groma's decoder names the heads a second time (`decoder.bbox_embed` is
    `bbox_embed`); either name is accepted. transformers has since renamed parts of the layers.
    """
    return _renamed(
        state,
        (r"^(perceiver\.)?(ddetr_transformer\.|(?=input_proj\.))", ""),
        (r"^decoder\.(bbox_embed|class_embed)", r"\1"),
        (r"\.layers\.(\d+)\.(fc[12])\.", r".layers.\1.mlp.\2."),
        (r"\.self_attn\.out_proj\.", ".self_attn.o_proj."),
    )


def groma_region_encoder(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Extract the RegionEncoder from any `FoundationVision/groma-7b-*`; it needs `groma_compat=True`."""
    return _renamed(state, (r"^region_encoder\.", ""))


def groma_adapter(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Extract the VLM's `adapter.*` from any `FoundationVision/groma-7b-*`."""
    return _renamed(state, (r"^img_txt_bridge\.", "adapter."))


def language_model(state: Mapping[str, Tensor], vocab_size: int, lora_targets: Sequence[str]) -> dict[str, Tensor]:
    """Extract the VLM's `llm.*`, all but LoRA, from Vicuna, LLaVA (the original or `llava-hf`) or any `groma-7b-*`.

    Rows from `vocab_size` on, of tokens that the prompts do not use, vision towers and projectors are omitted.
    """
    tensors = _renamed(
        state,
        (rf"^{LLAMA_PREFIX}(?={LLAMA_NAMES})", "llm."),
        (r"\.language_model\.", "."),
        (rf"\.({'|'.join(lora_targets)})\.weight$", r".\1.base_layer.weight"),
    )
    return {name: tensor[:vocab_size] if name in TABLES else tensor for name, tensor in tensors.items()}


def require_merged(state: Mapping[str, Tensor], source: str) -> None:
    """Raise WeightsError if a LLaMA is a delta: what is to be added to another LLaMA, as Vicuna 1.1 and LLaVA 1.1 are.

    A finetuning hardly changes the weights of norms, so that the delta's are near 0, all of them; LLaMA's are 0.4 to 1.
    """
    norms = [tensor for name, tensor in state.items() if re.match(rf"{LLAMA_PREFIX}{LLAMA_NAMES}.*norm\.weight$", name)]
    if not norms or max(float(norm.float().abs().mean()) for norm in norms) > DELTA_NORM:
        return
    is_llava = any("mm_projector" in name for name in state)
    package, repository = ("llava", "haotian-liu/LLaVA") if is_llava else ("fastchat", "lm-sys/FastChat")
    raise WeightsError(
        f"{source}: found a delta, whose norms are near 0, not LLaMA's; merge it with the LLaMA-7B that it was made "
        f"from by `python -m {package}.model.apply_delta --base-model-path LLAMA --target-model-path MERGED "
        f"--delta-path DELTA` of github.com/{repository}, and give MERGED"
    )


def fresh_lora(module: nn.Module) -> dict[str, Tensor]:
    """Draw a LoRA for a module that may be on the meta device, as PEFT does: A like a linear layer, B zero; float32."""
    fresh = {name: torch.zeros(parameter.shape) for name, parameter in module.named_parameters() if ".lora_" in name}
    for name, tensor in fresh.items():
        if ".lora_A." in name:
            nn.init.kaiming_uniform_(tensor, a=math.sqrt(5))
    return fresh


def smartedit_qformer(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Extract the QFormer from `TencentARC/SmartEdit-7B`, `embeddings_qformer/checkpoint-*.bin`."""
    return _renamed(
        state,
        (r"^sd_(?=qformer\.|query_tokens$)", ""),
        (r"^qformer\.", "blip2."),
        (r"\.embeddings\.LayerNorm\.", ".layernorm."),
        (r"attention\.self\.", "attention.attention."),
    )


def smartedit_llm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name the tensors of SmartEdit's `LLM-*/adapter_model.bin` as LLaMA's with a LoRA; PEFT's own names fit too."""
    tensors = {}
    for name, tensor in state.items():
        name = re.sub(r"^(model\.)?base_model\.model\.(model\.)?", "model.", name).replace(".base_layer.", ".")
        tensors[re.sub(r"\.(lora_[AB])\.weight$", r".\1.default.weight", name)] = tensor
    return tensors


def smartedit_unet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name the tensors of SmartEdit's `unet-*/adapter_model.bin` as diffusers does; they may be so already."""
    prefixed = {name: tensor for name, tensor in state.items() if name.startswith("unet.")}
    return {name.removeprefix("unet."): tensor for name, tensor in (prefixed or state).items()}


def new_rows(tokens: Sequence[str], old: Tensor, smartedit: Tensor | None = None) -> Tensor:
    """Initialize rows for `tokens`: SmartEdit's rows of the same tokens, otherwise the mean of the old rows.

    Args:
        old: [V, D], the published rows.
        smartedit: [35, D] or [V + 35, D], its table of the same kind.
    Raises:
        WeightsError: the table has another number of rows; in SmartEdit's first stage rows are of other tokens.
    """
    total = torch.zeros(old.shape[1])
    for part in old.split(1024):  # the whole table in float32 would take much memory
        total += part.float().sum(dim=0)
    rows = (total / len(old)).repeat(len(tokens), 1)
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
    """Extract EditUNet from `timbrooks/instruct-pix2pix`, or from Stable Diffusion 1.5, which reads no source.

    Args:
        ip_adapter: `h94/IP-Adapter`, `models/ip-adapter-plus_sd15.safetensors`, for the image attention; if None,
            that starts as a no-op: keys of the text attention and zero values.
    Raises:
        WeightsError: there is no input or output layer, or the IP-Adapter has not the matrices of this UNet's layers.
    """
    if absent := [name for name in ("conv_in.weight", "conv_out.weight") if name not in state]:
        raise WeightsError(f"found no {absent[0]}; give the UNet of timbrooks/instruct-pix2pix or Stable Diffusion 1.5")
    tensors, conv_in, latents = dict(state), state["conv_in.weight"], len(state["conv_out.weight"])
    source = conv_in.new_zeros(len(conv_in), 2 * latents - conv_in.shape[1], *conv_in.shape[2:])
    tensors["conv_in.weight"] = torch.cat([conv_in, source], dim=1)
    layers = [name.removesuffix(".to_k.weight") for name in state if name.endswith(".attn2.to_k.weight")]
    for index, layer in enumerate(sorted(layers, key=_ip_adapter_order)):
        if ip_adapter is None:
            keys, values = state[f"{layer}.to_k.weight"].clone(), torch.zeros_like(state[f"{layer}.to_v.weight"])
        else:  # it counts self-attentions too
            keys, values = (
                _ip_adapter_matrix(ip_adapter, 2 * index + 1, kind, state[f"{layer}.to_{kind}.weight"].shape)
                for kind in "kv"
            )
        tensors[f"{layer}.image_attention.to_k.weight"] = keys
        tensors[f"{layer}.image_attention.to_v.weight"] = values
    return tensors


def stable_diffusion_vae(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Extract the VAE from the same; checkpoints from before diffusers 0.15 have other names of its attention."""
    renamed = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    pattern = r"(\.attentions\.0)\.(query|key|value|proj_attn)\."
    return {re.sub(pattern, lambda m: f"{m[1]}.{renamed[m[2]]}.", name): tensor for name, tensor in state.items()}


def load_strict(module: nn.Module, state: Mapping[str, Tensor], source: str, assign: bool = False) -> None:
    """Load `state` into `module`, whose tensors it must match exactly.

    Args:
        source: name of the checkpoint, for the error.
        assign: take the tensors themselves, in their precision, as a module on the meta device always does; otherwise
            their values are copied.
    Raises:
        WeightsError: tensors are missing, unexpected or of another shape.
    """
    require_fit(module, state, type(module).__name__, "", f"it the tensors of {source}")
    on_meta = any(tensor.is_meta for tensor in module.state_dict().values())
    module.load_state_dict(dict(state), assign=assign or on_meta)


def load_whole(kind: type[M], folder: Path, dtype: torch.dtype = torch.float32) -> M:
    """Load a model of diffusers or transformers, which would leave missing tensors empty or draw them.

    Raises:
        WeightsError: tensors are missing.
    """
    model, info = kind.from_pretrained(folder, dtype=dtype, output_loading_info=True)  # type: ignore[attr-defined]
    if missing := sorted(info["missing_keys"]):
        raise WeightsError(f"{folder}: found no {listed(missing)} for a {kind.__name__}; download it again")
    return model


def require_fit(module: nn.Module, state: Mapping[str, Tensor], name: str, places: str, give: str) -> None:
    """Raise WeightsError, in one sentence, unless `state` has the names and shapes of the module's tensors.

    Args:
        name: of the module, for the error.
        places: of the tensors' files, or "".
        give: words for what fits.
    """
    wanted = {tensor: list(value.shape) for tensor, value in module.state_dict().items()}
    found = {tensor: list(value.shape) for tensor, value in state.items()}
    missing, unknown = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    wrong = [
        f"{tensor} of shape {found[tensor]} in place of {shape}"
        for tensor, shape in wanted.items()
        if tensor in found and found[tensor] != shape
    ]
    faults = [f"no {listed(missing)}"] if missing else []
    faults += [f"an unknown {listed(unknown)}"] if unknown else []
    faults += [listed(wrong, 1)] if wrong else []
    if faults:
        place = f" in {places}" if places else ""
        raise WeightsError(f"{name}: found {', '.join(faults)}{place}; give {give}")


def listed(names: Sequence[str], most: int = 2) -> str:
    """Write down the first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _renamed(state: Mapping[str, Tensor], *renames: tuple[str, str]) -> dict[str, Tensor]:
    """Select the tensors whose names the first pattern matches, and apply patterns and replacements in order.

    Omits the tables that old checkpoints contain and every module computes itself.
    """
    tensors = {}
    for name, tensor in state.items():
        if re.match(renames[0][0], name) and not name.endswith(("position_ids", "rotary_emb.inv_freq")):
            for pattern, replacement in renames:
                name = re.sub(pattern, replacement, name)
            tensors[name] = tensor
    return tensors


def _ip_adapter_matrix(ip_adapter: Mapping[str, Tensor], number: int, kind: str, shape: torch.Size) -> Tensor:
    tensor = ip_adapter.get(name := f"ip_adapter.{number}.to_{kind}_ip.weight")
    if tensor is None or tensor.shape != shape:
        found = f"no {name}" if tensor is None else f"{name} of shape {[*tensor.shape]}"
        give = "h94/IP-Adapter's models/ip-adapter-plus_sd15.safetensors or .bin"
        raise WeightsError(f"found {found} where Stable Diffusion 1.5 has one of {[*shape]}; give {give}")
    return tensor


def _ip_adapter_order(layer: str) -> tuple[int, ...]:
    """Return the sort key of a layer in IP-Adapter's numbering, that of diffusers' UNet: down, up, middle."""
    return ("down_blocks", "up_blocks", "mid_block").index(layer.split(".")[0]), *map(int, re.findall(r"\d+", layer))
