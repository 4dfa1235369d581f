"""Conversion of published checkpoints to a pipeline of this project."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from fireedit.models import weights
from fireedit.models.checkpoint_files import CheckpointFileError, read_json, read_tensors, read_tokenizer, tensor_files
from fireedit.models.detector import DetectorConfig
from fireedit.models.detectors.kinds import load_detector
from fireedit.models.hvca import HVCA
from fireedit.models.model import FireEdit, FireEditConfig
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.qformer import QFormer
from fireedit.models.schedule import sampler
from fireedit.models.tati import TATI
from fireedit.platform.console import say

TENSORS_IN = {"instruct_pix2pix": ("unet", "vae")}
"""Subfolders with the weights, for checkpoints that do not hold them directly."""
COMPARED = "llm.model.layers.0.mlp.up_proj.weight"
"""A projection that differs between any two finetuned LLMs."""


def _option(text: str, default: Any = MISSING) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, kw_only=True)
class PublishedPaths:
    """Published checkpoints: folders or files as their authors publish them, with the help of their options."""

    groma: Path = _option("proposer, region encoder, adapter: FoundationVision/groma-7b-pretrain or groma-7b-finetune")
    llm: Path = _option(
        "the LLM that Groma's region encoder was trained with: lmsys/vicuna-7b-v1.5 for groma-7b-pretrain, Groma's own "
        "folder for groma-7b-finetune; any other LLaMA-7B (such as liuhaotian/llava-v1.5-7b or "
        "llava-hf/llava-1.5-7b-hf) works after more training, and a warning says so"
    )
    dinov2: Path = _option("facebook/dinov2-large")
    clip: Path = _option("openai/clip-vit-large-patch14: both encoders and the tokenizer")
    instruct_pix2pix: Path = _option(
        "UNet and VAE: timbrooks/instruct-pix2pix, or Stable Diffusion 1.5 in the same layout"
    )
    smartedit: Path | None = _option("TencentARC/SmartEdit-7B: embeddings_qformer/checkpoint-15000_*.bin", default=None)
    ip_adapter: Path | None = _option(
        "h94/IP-Adapter: models/ip-adapter-plus_sd15.safetensors; image attention starts from it", default=None
    )


def convert(paths: PublishedPaths, config: FireEditConfig, seed: int = 0) -> FireEditPipeline:
    """Build a pipeline from published weights in their published precision; `seed` draws the rest.

    Raises:
        CheckpointFileError: a file is missing, damaged or not what its name says.
        WeightsError: the tensors of a file do not fit.
        DetectorError: a config names a published detector that cannot be loaded.
    """
    _check_files(paths)
    # The tokenizers are read first: an unreadable one should not cost the minutes that the tensors take.
    vlm_tokenizer, tokenizer = read_tokenizer(paths.llm), read_tokenizer(paths.clip)
    config = replace(
        config,
        region_encoder=replace(config.region_encoder, groma_compat=True),
        vlm=replace(config.vlm, norm_eps=_norm_eps(paths.llm)),
    )
    with init_empty_weights():
        model = FireEdit.from_config(config)
    _fill_vision(model, paths)
    _fill_unet(model, paths)
    smartedit = read_tensors(paths.smartedit) if paths.smartedit else {}
    torch.manual_seed(seed)
    _fill_vlm(model, paths, smartedit, config)
    model.qformer, model.tati, model.hvca = QFormer(config.qformer), TATI(config.tati), HVCA(config.hvca)
    if smartedit:
        _fill(model, "qformer", weights.smartedit_qformer(smartedit), str(paths.smartedit))
    say(f"fresh weights: {'' if smartedit else 'qformer, '}tati, hvca, LoRA")
    components: dict[str, Any] = dict(model.eval().named_children())
    return FireEditPipeline(
        vlm_tokenizer=_without_added_tokens(vlm_tokenizer, config.vlm.vocab_size),
        tokenizer=tokenizer,
        scheduler=sampler(config.schedule),
        **components,
    )


def parameter_count(module: nn.Module) -> int:
    """Count a module's parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def _check_files(paths: PublishedPaths) -> None:
    """Check every file before the first tensor is read."""
    for name, path in vars(paths).items():
        if path is None:
            continue
        if not path.exists():
            raise CheckpointFileError(f"--{name.replace('_', '-')}: {path} is missing")
        for folder in TENSORS_IN.get(name, (".",)):
            tensor_files(path / folder if path.is_dir() else path)


def _fill(model: FireEdit, name: str, state: Mapping[str, Tensor], source: Path | str) -> None:
    module = getattr(model, name)
    weights.load_strict(module, state, source=str(source))
    say(f"{name:15s} {parameter_count(module):>13,} parameters from {source}")


def _fill_vision(model: FireEdit, paths: PublishedPaths) -> None:
    clip = read_tensors(paths.clip)
    dino = weights.dinov2(read_tensors(paths.dinov2))
    _fill(model, "vision", {**dino, **weights.clip_vision(clip)}, f"{paths.dinov2} and {paths.clip}")
    _fill(model, "text_encoder", weights.clip_text(clip), paths.clip)


def _fill_unet(model: FireEdit, paths: PublishedPaths) -> None:
    folder = paths.instruct_pix2pix
    ip_adapter = read_tensors(paths.ip_adapter) if paths.ip_adapter else None
    _fill(model, "unet", weights.stable_diffusion_unet(read_tensors(folder / "unet"), ip_adapter), folder)
    _fill(model, "vae", weights.stable_diffusion_vae(read_tensors(folder / "vae")), folder)


def _fill_vlm(model: FireEdit, paths: PublishedPaths, smartedit: Mapping[str, Tensor], config: FireEditConfig) -> None:
    """Fill all that Groma trained together: detector, region encoder, and the VLM with Groma's adapter."""
    groma = read_tensors(paths.groma)
    if isinstance(config.detector, DetectorConfig):
        _fill(model, "detector", weights.groma_detector(groma), paths.groma)
    else:
        model.detector = load_detector(config.detector)
    _fill(model, "region_encoder", weights.groma_region_encoder(groma), paths.groma)
    sizes = config.vlm
    llm = groma if paths.llm == paths.groma else read_tensors(paths.llm)
    llm = weights.language_model(llm, sizes.vocab_size, sizes.lora_targets)
    _warn_of_another_llm(weights.language_model(groma, sizes.vocab_size, sizes.lora_targets), llm, paths)
    fresh = {**weights.fresh_lora(model.vlm), **_new_tables(llm, smartedit, config)}
    _fill(model, "vlm", {**llm, **weights.groma_adapter(groma), **fresh}, f"{paths.llm} and {paths.groma}")


def _warn_of_another_llm(own: Mapping[str, Tensor], llm: Mapping[str, Tensor], paths: PublishedPaths) -> None:
    """Warn unless `llm` is the LLM in Groma's files; compared in bfloat16, in which either may be published."""
    advice = "pair groma-7b-pretrain with lmsys/vicuna-7b-v1.5, groma-7b-finetune with the LLM in its own folder"
    if COMPARED not in own or COMPARED not in llm:
        say(f"warning: {paths.groma} holds no LLM to compare with {paths.llm}; {advice}")
        return
    first, second = own[COMPARED].bfloat16(), llm[COMPARED].bfloat16()
    if first.shape != second.shape or (first == second).float().mean() < 0.9:
        say(f"warning: Groma's region encoder was trained with another LLM than {paths.llm}; {advice}")


def _norm_eps(llm: Path) -> float:
    """Read the epsilon of LLaMA's norms; Vicuna 1.1 and 1.5 differ in it."""
    config = read_json(llm / "config.json")
    config = config.get("text_config") or config.get("llm_cfg") or config
    return config.get("rms_norm_eps", 1e-6)


def _new_tables(
    llm: Mapping[str, Tensor], smartedit: Mapping[str, Tensor], config: FireEditConfig
) -> dict[str, Tensor]:
    """Make the rows of the new tokens in both tables of the LLM; SmartEdit's file has those of the head."""
    tokens = config.vlm.prompt.new_tokens
    tables = {"llm.model.embed_tokens.weight": None, "llm.lm_head.weight": smartedit.get("lm_head.weight")}
    if not tables.keys() <= llm.keys():
        raise weights.WeightsError("the LLM's file holds no model.embed_tokens or lm_head; give a LLaMA-7B")
    rows = [weights.new_rows(tokens, llm[name], table) for name, table in tables.items()]
    return {"new_embeddings.weight": rows[0], "new_head.weight": rows[1]}


def _without_added_tokens(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> PreTrainedTokenizerFast:
    """Drop the tokens that LLaVA and Groma added after the vocabulary; this project's new tokens have those ids."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] < vocab_size]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        bos_token=tokenizer.bos_token,
        eos_token=tokenizer.eos_token,
        pad_token=tokenizer.eos_token,
    )
