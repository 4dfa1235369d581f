"""Published checkpoints of random weights, in the layouts of their authors, at the sizes of a configuration.

What transformers, diffusers and PEFT have is built and saved by their own classes. Groma and SmartEdit, whose code is
their authors' own, are this project's modules under the published names.
"""

import inspect
import json
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from huggingface_hub import save_torch_state_dict
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    Dinov2Config,
    Dinov2Model,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from fireedit.models.detector import Detector, DetectorConfig
from fireedit.models.model import NANO, FireEditConfig
from fireedit.models.qformer import QFormer
from fireedit.models.region_encoder import RegionEncoder
from fireedit.models.weights import SMARTEDIT_TOKENS

SHARDS, GROMA_SHARDS = 2, 3
"""Number of shards, about, of every checkpoint that is published in some."""
LLAVA_ROWS = 3
"""Rows of tokens that LLaVA's authors added to the LLM's tables."""
GROMA_TOKENS = (
    *("[PAD]", "<sep>", "<img>", "</img>", "<roi>", "</roi>", "<p>", "</p>", "<image>", "<region>", "<refer_box>"),
    *("<ground_box>", "<refer_feat>", "[grounding]", *(f"<r{index}>" for index in range(100))),
)
"""Tokens that Groma's authors added after the LLM's vocabulary."""
State = dict[str, Tensor]


def save_dinov2(folder: Path, config: FireEditConfig, seed: int = 0) -> Dinov2Model:
    """Save facebook/dinov2-large."""
    sizes = config.vision
    model = _random(
        seed,
        lambda: Dinov2Model(
            Dinov2Config(
                hidden_size=sizes.dino_width,
                num_hidden_layers=sizes.dino_layers,
                num_attention_heads=sizes.dino_heads,
                mlp_ratio=sizes.dino_mlp_ratio,
                image_size=sizes.dino_image_size,
                patch_size=sizes.patch_size,
            )
        ),
    )
    model.save_pretrained(folder)
    return model


def save_clip(folder: Path, config: FireEditConfig, seed: int = 0) -> CLIPModel:
    """Save openai/clip-vit-large-patch14, with its tokenizer."""
    text = {
        "vocab_size": config.text.vocab_size,
        "hidden_size": config.text.width,
        "intermediate_size": config.text.mlp_width,
        "num_hidden_layers": config.text.layers,
        "num_attention_heads": config.text.heads,
        "max_position_embeddings": config.text.tokens,
        "bos_token_id": config.text.bos_token_id,
        "eos_token_id": config.text.eos_token_id,
    }
    settings = CLIPConfig(text_config=text, vision_config=_clip_sizes(config), projection_dim=config.text.width)
    model = _random(seed, lambda: CLIPModel(settings))
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(NANO / "tokenizer").save_pretrained(folder)
    return model


def build_llm(config: FireEditConfig, seed: int = 0, dtype: torch.dtype = torch.float16) -> LlamaForCausalLM:
    """Build LLaMA, in the precision in which it is published."""
    return _random(seed, lambda: LlamaForCausalLM(_llama_config(config)), dtype)


def save_vicuna(folder: Path, llm: LlamaForCausalLM, tokenizer: Path | None = None) -> None:
    """Save lmsys/vicuna-7b-v1.5: pickles in shards.

    Args:
        tokenizer: a tokenizer.model to copy, as the published folder has no other file of it; None saves nano's.
    """
    _save_shards(folder, llm.state_dict(), pickled=True)
    llm.config.save_pretrained(folder)
    _save_tokenizer(folder, tokenizer)


def save_llava(folder: Path, llm: LlamaForCausalLM, tokenizer: Path | None = None, hidden: int = 64) -> None:
    """Save liuhaotian/llava-v1.5-7b: LLaMA with more rows, and a projector of two layers from `hidden` channels."""
    state, width = dict(llm.state_dict()), llm.config.hidden_size
    for table in ("model.embed_tokens.weight", "lm_head.weight"):
        state[table] = torch.cat([state[table], state[table].new_full((LLAVA_ROWS, width), 9.0)])
    for layer, size in ((0, hidden), (2, width)):
        state[f"model.mm_projector.{layer}.weight"] = torch.zeros(width, size, dtype=llm.dtype)
        state[f"model.mm_projector.{layer}.bias"] = torch.zeros(width, dtype=llm.dtype)
    _save_shards(folder, state, pickled=True)
    settings = {"model_type": "llava", "mm_projector_type": "mlp2x_gelu", "mm_hidden_size": hidden}
    (folder / "config.json").write_text(json.dumps(llm.config.to_dict() | settings))
    _save_tokenizer(folder, tokenizer)


def save_llava_hf(folder: Path, config: FireEditConfig, llm: LlamaForCausalLM) -> None:
    """Save llava-hf/llava-1.5-7b-hf with the weights of a LLaMA."""
    settings = LlavaConfig(text_config=llm.config, vision_config=CLIPVisionConfig(**_clip_sizes(config)))
    model = _random(0, lambda: LlavaForConditionalGeneration(settings), llm.dtype)
    model.model.language_model.load_state_dict(llm.model.state_dict())
    model.lm_head.load_state_dict(llm.lm_head.state_dict())
    model.save_pretrained(folder)
    _save_tokenizer(folder)


def groma_parts(config: FireEditConfig, seed: int = 0) -> dict[str, nn.Module]:
    """Build what Groma trains beside its LLM: detector, region encoder, adapter."""
    sizes, settings = config.vlm, config.detector
    assert isinstance(settings, DetectorConfig), settings
    adapter = nn.Sequential(nn.Linear(sizes.image_width, sizes.width), nn.GELU(), nn.Linear(sizes.width, sizes.width))
    return {
        "detector": _random(seed, lambda: Detector(settings)),
        "region_encoder": _random(seed, lambda: RegionEncoder(config.region_encoder)),
        "adapter": _random(seed, lambda: adapter),
    }


def save_groma(
    folder: Path,
    parts: Mapping[str, nn.Module],
    dinov2: nn.Module,
    llm: LlamaForCausalLM,
    tokenizer: Path | None = None,
) -> None:
    """Save FoundationVision/groma-7b-pretrain or -finetune: all of Groma in float32, as its training does with bf16.

    Args:
        tokenizer: a tokenizer.model to copy, beside which the added tokens have a file; None saves nano's.
    """
    rows = torch.zeros(len(GROMA_TOKENS), llm.config.hidden_size)
    state = _prefixed("perceiver.", _perceiver(parts["detector"], dinov2))
    state |= {f"llm.{name}": tensor.float() for name, tensor in llm.state_dict().items()}
    state |= _prefixed("img_txt_bridge.", parts["adapter"].state_dict())
    state |= _prefixed("region_encoder.", parts["region_encoder"].state_dict())
    state |= {"extra_lm_head.weight": rows, "new_input_embs.weight": rows.clone()}
    _save_shards(folder, state, pickled=True, shards=GROMA_SHARDS)
    settings = {"model_type": "groma", "num_new_token": len(GROMA_TOKENS), "llm_cfg": llm.config.to_dict()}
    (folder / "config.json").write_text(json.dumps(settings))
    _save_tokenizer(folder, tokenizer)
    if tokenizer is not None:
        added = {token: llm.config.vocab_size + index for index, token in enumerate(GROMA_TOKENS)}
        (folder / "added_tokens.json").write_text(json.dumps(added))
        bos, eos = ({"__type": "AddedToken", "content": token, "normalized": True} for token in ("<s>", "</s>"))
        named = {"bos_token": bos, "eos_token": eos, "pad_token": "[PAD]", "tokenizer_class": "LlamaTokenizer"}
        (folder / "tokenizer_config.json").write_text(json.dumps(named))


def save_groma_detector(folder: Path, detector: nn.Module, dinov2: nn.Module) -> None:
    """Save FoundationVision/groma-det-pretrain."""
    _save_shards(folder, _perceiver(detector, dinov2))


def save_instruct_pix2pix(
    folder: Path, config: FireEditConfig, seed: int = 0
) -> tuple[UNet2DConditionModel, AutoencoderKL]:
    """Save UNet and VAE of timbrooks/instruct-pix2pix."""
    unet, vae = build_unet(config, seed), _random(seed, lambda: AutoencoderKL(**asdict(config.vae)))
    unet.save_pretrained(folder / "unet")
    vae.save_pretrained(folder / "vae")
    return unet, vae


def build_unet(config: FireEditConfig, seed: int = 0) -> UNet2DConditionModel:
    """Build Stable Diffusion's UNet with InstructPix2Pix's input."""
    known = inspect.signature(UNet2DConditionModel).parameters
    sizes = {name: value for name, value in asdict(config.unet).items() if name in known}
    return _random(seed, lambda: UNet2DConditionModel(**sizes))


def save_smartedit(
    folder: Path, config: FireEditConfig, llm: LlamaForCausalLM, prefix: str = "unet.", seed: int = 7
) -> dict[str, nn.Module]:
    """Save TencentARC/SmartEdit-7B: Q-Former and head, LoRA on `llm` with a table of more rows, UNet."""
    sizes, rows = config.vlm, len(SMARTEDIT_TOKENS)
    qformer, unet = _random(seed, lambda: QFormer(config.qformer)), build_unet(config, seed)
    head = torch.cat([llm.lm_head.weight.detach(), _numbered(rows, sizes.width)])
    state = _smartedit_qformer(qformer.state_dict()) | {"lm_head.weight": head}
    state |= {"mm_projector.weight": torch.zeros(sizes.width, 8), "mm_projector.bias": torch.zeros(sizes.width)}
    _save_pickle(folder / "embeddings_qformer/checkpoint-15000_embeddings_qformer.bin", state)
    _save_pickle(folder / "unet-15000/adapter_model.bin", _prefixed(prefix, unet.state_dict()))

    settings = LoraConfig(r=sizes.lora_rank, lora_alpha=sizes.lora_alpha, target_modules=list(sizes.lora_targets))
    base = LlamaForCausalLM(_llama_config(config)).to(llm.dtype)
    base.load_state_dict(llm.state_dict())
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # of transformers, for PEFT
        model = _random(seed, lambda: get_peft_model(base.model, settings), only="lora_")
    settings.save_pretrained(str(folder))
    tensors = {f"model.{name}".replace(".base_layer.", "."): each for name, each in model.state_dict().items()}
    table = "model.base_model.model.embed_tokens.weight"
    tensors[table] = torch.cat([torch.full_like(tensors[table], 9.0), -_numbered(rows, sizes.width).to(llm.dtype)])
    _save_pickle(folder / "LLM-15000/adapter_model.bin", tensors)
    return {"qformer": qformer, "unet": unet, "llm": model}


def save_ip_adapter(path: Path, config: FireEditConfig) -> dict[str, State]:
    """Save h94/IP-Adapter's ip-adapter-plus_sd15.bin, a dict of dicts; each matrix is its number, values' plus 1/2."""
    unet, state = build_unet(config), State()
    for index, name in enumerate(unet.attn_processors):  # it counts self-attentions too
        if ".attn2." in name:
            shape = unet.get_submodule(name.removesuffix(".processor")).to_k.weight.shape
            for kind, value in (("k", index), ("v", index + 0.5)):
                state[f"{index}.to_{kind}_ip.weight"] = torch.full(shape, float(value))
    held = {"image_proj": {"latents": torch.zeros(1, 16, 768)}, "ip_adapter": state}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(held, path)
    return held


def _perceiver(detector: nn.Module, dinov2: nn.Module) -> State:
    """Name detector and DINOv2 as transformers 4.32 and Groma do."""
    state = _prefixed("vis_encoder.", dinov2_state(dinov2))
    for name, tensor in detector.state_dict().items():
        name = re.sub(r"\.mlp\.(fc[12])\.", r".\1.", name).replace(".self_attn.o_proj.", ".self_attn.out_proj.")
        state[name if name.startswith("input_proj.") else f"ddetr_transformer.{name}"] = tensor
    return state


def dinov2_state(dinov2: nn.Module) -> State:
    """Name DINOv2's tensors as its files do."""
    names = {"q": "attention.query", "k": "attention.key", "v": "attention.value", "o": "output.dense"}
    return {
        re.sub(r"\.attention\.([qkvo])_proj\.", lambda match: f".attention.{names[match[1]]}.", name): tensor
        for name, tensor in dinov2.state_dict().items()
    }


def _smartedit_qformer(state: Mapping[str, Tensor]) -> State:
    renames = {r"^blip2\.": "sd_qformer.", r"^query_tokens$": "sd_query_tokens"}
    renames |= {r"attention\.attention\.": "attention.self.", r"\.layernorm\.": ".embeddings.LayerNorm."}
    published = {}
    for name, tensor in state.items():
        for pattern, replacement in renames.items():
            name = re.sub(pattern, replacement, name)
        published[name] = tensor
    return published | {"sd_qformer.embeddings.position_ids": torch.arange(512)[None]}


def _clip_sizes(config: FireEditConfig) -> dict[str, Any]:
    sizes = config.vision
    return {
        "hidden_size": sizes.clip_width,
        "intermediate_size": sizes.clip_mlp_width,
        "num_hidden_layers": sizes.clip_layers,
        "num_attention_heads": sizes.clip_heads,
        "image_size": sizes.clip_image_size,
        "patch_size": sizes.patch_size,
    }


def _llama_config(config: FireEditConfig) -> LlamaConfig:
    sizes = config.vlm
    return LlamaConfig(
        vocab_size=sizes.vocab_size,
        hidden_size=sizes.width,
        intermediate_size=sizes.mlp_width,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        max_position_embeddings=sizes.max_positions,
        rms_norm_eps=sizes.norm_eps,
    )


def _random(
    seed: int, build: Callable[[], Any], dtype: torch.dtype = torch.float32, scale: float = 0.02, only: str = ""
) -> Any:
    """Build a module and add noise to its weights, or to those whose names have `only`, so that none is a constant."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        module = build().eval()
        for name, parameter in module.named_parameters():
            if only in name:
                parameter += scale * torch.randn_like(parameter)
    return module if only or dtype == torch.float32 else module.to(dtype)


def _numbered(rows: int, width: int) -> Tensor:
    """Make [rows, width], each row its own number."""
    return torch.arange(float(rows))[:, None].expand(rows, width).contiguous()


def _prefixed(prefix: str, state: Mapping[str, Tensor]) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def _save_shards(folder: Path, state: Mapping[str, Tensor], pickled: bool = False, shards: int = SHARDS) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    size = sum(tensor.nbytes for tensor in state.values())
    save_torch_state_dict(dict(state), folder, max_shard_size=size // shards + 1, safe_serialization=not pickled)


def _save_pickle(path: Path, state: Mapping[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(dict(state), path)


def _save_tokenizer(folder: Path, model: Path | None = None) -> None:
    """Copy a tokenizer.model, or save nano's tokenizer."""
    if model is not None:
        (folder / "tokenizer.model").write_bytes(model.read_bytes())
    else:
        AutoTokenizer.from_pretrained(NANO / "vlm_tokenizer").save_pretrained(folder)
