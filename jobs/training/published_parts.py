"""Tensors of each part of the model, from the published checkpoints and, where those have none, fresh."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from accelerate import init_empty_weights
from torch import Tensor

from fireedit.jobs.training.published_files import PublishedPaths, adapter_config
from fireedit.models import checkpoint_kinds as kinds
from fireedit.models import weights
from fireedit.models.checkpoint_files import read_json, read_tensors
from fireedit.models.hvca import HVCA
from fireedit.models.model import FireEditConfig
from fireedit.models.qformer import QFormer
from fireedit.models.tati import TATI
from fireedit.models.vlm import VLM, VLMConfig
from fireedit.platform.console import say

COMPARED = "llm.model.layers.0.mlp.up_proj.weight"
"""A projection that differs between any two finetuned LLMs."""
DIFFERENT = 0.1
"""Share of differing numbers above which two LLMs are not the same."""
TABLES = ("llm.model.embed_tokens.weight", "llm.lm_head.weight")


@dataclass(frozen=True)
class Filling:
    """Tensors of one part under its own names, mapped from their files where they are published."""

    published: dict[str, Tensor] = field(default_factory=dict)
    fresh: dict[str, Tensor] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    give: str = ""
    """Words for the checkpoints that fit."""


def vision(paths: PublishedPaths, config: FireEditConfig) -> Filling:
    state = weights.dinov2(read_tensors(paths.dinov2)) | weights.clip_vision(read_tensors(paths.clip))
    return Filling(state, files=(paths.dinov2, paths.clip), give=f"{kinds.DINOV2.give} and {kinds.CLIP.give}")


def text_encoder(paths: PublishedPaths, config: FireEditConfig) -> Filling:
    return Filling(weights.clip_text(read_tensors(paths.clip)), files=(paths.clip,), give=kinds.CLIP.give)


def detector(paths: PublishedPaths, config: FireEditConfig) -> Filling:
    state = weights.groma_detector(read_tensors(paths.proposer))
    return Filling(state, files=(paths.proposer,), give=kinds.DETECTOR.give)


def region_encoder(paths: PublishedPaths, config: FireEditConfig) -> Filling:
    state = weights.groma_region_encoder(read_tensors(paths.groma))
    return Filling(state, files=(paths.groma,), give=kinds.GROMA.give)


def unet(paths: PublishedPaths, config: FireEditConfig) -> Filling:
    """Fill the UNet; without an IP-Adapter its image attention starts as a no-op."""
    published = weights.smartedit_unet(read_tensors(paths.unet))
    ip_adapter = read_tensors(paths.ip_adapter) if paths.ip_adapter else None
    state = weights.stable_diffusion_unet(published, ip_adapter)
    fresh = {} if ip_adapter else {name: state.pop(name) for name in state.keys() - published.keys()}
    files = (paths.unet, paths.ip_adapter) if paths.ip_adapter else (paths.unet,)
    return Filling(state, fresh, files, kinds.UNET.give)


def vae(paths: PublishedPaths, config: FireEditConfig) -> Filling:
    folder = paths.instruct_pix2pix / "vae"
    return Filling(weights.stable_diffusion_vae(read_tensors(folder)), files=(folder,), give=kinds.VAE.give)


def qformer(paths: PublishedPaths, config: FireEditConfig) -> Filling:
    if paths.qformer is None:
        return Filling(fresh=QFormer(config.qformer).state_dict())
    state = weights.smartedit_qformer(read_tensors(paths.qformer))
    return Filling(state, files=(paths.qformer,), give=kinds.SMARTEDIT_QFORMER.give)


def tati(paths: PublishedPaths, config: FireEditConfig) -> Filling:
    return Filling(fresh=TATI(config.tati).state_dict())


def hvca(paths: PublishedPaths, config: FireEditConfig) -> Filling:
    return Filling(fresh=HVCA(config.hvca).state_dict())


def vlm(paths: PublishedPaths, config: FireEditConfig) -> Filling:
    """Fill the VLM: an LLM, Groma's adapter, SmartEdit's LoRA and rows of new tokens, or fresh ones."""
    sizes, groma = config.vlm, read_tensors(paths.groma)
    llm = groma if paths.llm is None else read_tensors(paths.llm)
    llm = weights.language_model(llm, sizes.vocab_size, sizes.lora_targets)
    if not {*TABLES} <= llm.keys():
        raise weights.WeightsError(f"vlm: found no {TABLES[0]} or {TABLES[1]} in {paths.language_model}; give a LLaMA")
    _warn_of_another_llm(weights.language_model(groma, sizes.vocab_size, sizes.lora_targets), llm, paths)
    lora, embeddings, head = _smartedit_lora(paths, llm, sizes), None, None
    if paths.lora is not None:
        embeddings = weights.smartedit_llm(read_tensors(paths.lora))["model.embed_tokens.weight"]
    if paths.qformer is not None:
        head = read_tensors(paths.qformer).get("lm_head.weight")
    tokens = sizes.prompt.new_tokens
    rows = {
        "new_embeddings.weight": weights.new_rows(tokens, llm[TABLES[0]], embeddings),
        "new_head.weight": weights.new_rows(tokens, llm[TABLES[1]], head),
    }
    fresh = {name: rows.pop(name) for name, table in zip([*rows], (embeddings, head), strict=True) if table is None}
    if not lora:
        with init_empty_weights():
            fresh |= weights.fresh_lora(VLM(sizes))
    files = [paths.language_model, paths.groma, paths.lora]
    published = {**llm, **weights.groma_adapter(groma), **rows, **lora}
    give = f"{kinds.LLAMA.give} with {kinds.GROMA.give}"
    return Filling(published, fresh, tuple(dict.fromkeys(path for path in files if path)), give)


def _warn_of_another_llm(own: Mapping[str, Tensor], llm: Mapping[str, Tensor], paths: PublishedPaths) -> None:
    """Warn unless `llm` is the LLM in Groma's files."""
    advice = (
        "give --llm lmsys/vicuna-7b-v1.5 to groma-7b-pretrain, and none to groma-7b-finetune, whose own is then taken"
    )
    if COMPARED not in own:
        say(f"warning: region_encoder: found no LLM in {paths.groma} to compare with {paths.language_model}; {advice}")
    elif (differing := _difference(own, llm)) > DIFFERENT:
        say(
            f"warning: region_encoder: that of {paths.groma} was trained with another LLM than {paths.llm}, as "
            f"{differing:.0%} of {COMPARED} differ; {advice}"
        )


def _smartedit_lora(paths: PublishedPaths, llm: Mapping[str, Tensor], sizes: VLMConfig) -> dict[str, Tensor]:
    """Read SmartEdit's LoRA; warns where it was trained on another LLM.

    Raises:
        WeightsError: its rank, alpha or targets are not those of the VLM.
    """
    if paths.lora is None or paths.smartedit is None:
        return {}
    config, state = read_json(adapter_config(paths.smartedit)), weights.smartedit_llm(read_tensors(paths.lora))
    found = (config["r"], config["lora_alpha"], sorted(config["target_modules"]))
    wanted = (sizes.lora_rank, sizes.lora_alpha, sorted(sizes.lora_targets))
    if found != wanted:
        given = f"{paths.lora} has a LoRA of rank, alpha and targets {found}"
        raise weights.WeightsError(f"vlm: {given}, not {wanted}; give --smartedit its Q-Former's .bin file alone")
    tensors = weights.language_model(state, sizes.vocab_size, sizes.lora_targets)
    if COMPARED in tensors and (differing := _difference(tensors, llm)) > DIFFERENT:
        say(
            f"warning: vlm: the LoRA of {paths.lora} was trained on another LLM than {paths.language_model}, as "
            f"{differing:.0%} of {COMPARED} differ; give --llm LLaVA 1.1, merged, or --smartedit the Q-Former's .bin"
        )
    return {name: tensor for name, tensor in tensors.items() if ".lora_" in name}


def _difference(own: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """Compute the share of differing numbers of COMPARED in bfloat16, in which either of two LLMs may be published."""
    first, second = own[COMPARED], other.get(COMPARED)
    if second is None or first.shape != second.shape:
        return 1.0
    return float((first.bfloat16() != second.bfloat16()).float().mean())
