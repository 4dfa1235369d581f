"""Conversion of published checkpoints to a pipeline folder of this project, part by part."""

import json
import math
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import ModelMixin
from huggingface_hub.errors import StrictDataclassError
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import LlamaConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from fireedit.jobs.training import published_parts as parts
from fireedit.jobs.training.published_files import PublishedPaths, check_sources, sources_of
from fireedit.models import weights
from fireedit.models.checkpoint_files import CheckpointFileError, read_json, read_tokenizer, write_tensors
from fireedit.models.model import FireEdit, FireEditConfig
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.schedule import sampler
from fireedit.platform.console import say

PARTS: dict[str, Callable[[PublishedPaths, FireEditConfig], parts.Filling]] = {
    "vision": parts.vision,
    "text_encoder": parts.text_encoder,
    "detector": parts.detector,
    "region_encoder": parts.region_encoder,
    "unet": parts.unet,
    "vae": parts.vae,
    "qformer": parts.qformer,
    "tati": parts.tati,
    "hvca": parts.hvca,
    "vlm": parts.vlm,
}
"""Fillings of all parts with weights, in the order of their conversion: the largest last."""
SHARD_BYTES = 2 * 10**9
"""Largest file of weights, if no tensor is larger; one is in memory at a time."""
SMALL_BYTES = 50 * 10**6
"""Room for configs and tokenizers."""
LLM_SETTINGS = {
    "num_attention_heads": "num_attention_heads",
    "num_key_value_heads": "num_key_value_heads",
    "hidden_act": "hidden_act",
    "rope_parameters": "rope_scaling or rope_theta",
}
"""Settings of an LLM that must be the VLM's, as its weights do not show them, and their keys in config.json."""


@dataclass(frozen=True)
class PartReport:
    """Conversion of one part."""

    parameters: int
    loaded: int
    """Number of tensors from published files alone."""
    partly: tuple[str, ...]
    """Tensors that are published but for some rows or channels, and how many of them begin afresh."""
    missing: tuple[str, ...]
    """Tensors that no file has and that begin afresh, such as the LoRA; numbers in their names are `*`."""
    unexpected: tuple[str, ...]
    """Tensors in the part's files that nothing is known to read or to leave out."""

    def line(self, name: str, files: Iterable[Path]) -> str:
        """Describe the conversion to a person."""
        text = f"{name:15s} {self.parameters:>13,} parameters: "
        if not self.loaded:
            return f"{text}all begun afresh"
        text += f"{self.loaded} tensors loaded"
        text += f", in part {weights.listed(self.partly, 8)}" if self.partly else ""
        text += f", missing and begun afresh: {weights.listed(self.missing, 8)}" if self.missing else ", none missing"
        text += f", unexpected: {weights.listed(self.unexpected, 8)}" if self.unexpected else ", none unexpected"
        return f"{text}; from {' and '.join(map(str, files))}"


def convert(
    paths: PublishedPaths,
    config: FireEditConfig,
    folder: Path,
    seed: int = 0,
    keep_float32: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> dict[str, PartReport]:
    """Write a pipeline folder of published weights in their published precision; `seed` draws the rest.

    All parts are checked before the first is written. Each is written before the next one is read, shard by shard, so
    that memory holds one shard, and the pages of one mapped file.

    Args:
        folder: of the pipeline; `model_index.json` is written last.
        keep_float32: write an LLM that is published in float32 as it is, not in bfloat16.
        shard_bytes: largest file of weights, if no tensor is larger.
    Raises:
        CheckpointFileError: a file is missing, damaged or not what its name says.
        WeightsError: the tensors of a file do not fit, or the LLM computes otherwise than ours.
        OSError: the disk of `folder` has too little room.
    """
    unexpected = check_sources(sources_of(paths))
    # The tokenizers are read first: an unreadable one should not cost the minutes that the tensors take.
    vlm_tokenizer, tokenizer = read_tokenizer(paths.language_model), read_tokenizer(paths.clip)
    llm = _llm_config(paths.language_model)
    config = replace(
        config,
        vision=replace(config.vision, groma_compat=True),
        region_encoder=replace(config.region_encoder, groma_compat=True),
        vlm=replace(config.vlm, norm_eps=llm.rms_norm_eps),
    )
    with init_empty_weights():
        outline = FireEdit.from_config(config)
    _check_llm_config(llm, outline.vlm.llm.config, paths.language_model / "config.json")
    components: dict[str, Any] = dict(outline.named_children())
    others: dict[str, Any] = {
        "vlm_tokenizer": _without_added_tokens(vlm_tokenizer, config.vlm.vocab_size),
        "tokenizer": tokenizer,
        "scheduler": sampler(config.schedule),
    }
    pipeline = FireEditPipeline(**components, **others, settings=asdict(config.painting))
    folder.mkdir(parents=True, exist_ok=True)
    plan = _Plan(paths, config, keep_float32, shard_bytes)
    _require_room(folder, sum(_check_part(name, components[name], plan) for name in PARTS))
    torch.manual_seed(seed)
    reports = {
        name: _write_part(name, components[name], plan, folder / name, unexpected.get(name, ())) for name in PARTS
    }
    for name, component in others.items():
        component.save_pretrained(folder / name)
    pipeline.save_config(folder)
    return reports


@dataclass(frozen=True)
class _Plan:
    """Conversion of all parts; see `convert`."""

    paths: PublishedPaths
    config: FireEditConfig
    keep_float32: bool
    shard_bytes: int

    def dtypes(self, name: str, tensors: Mapping[str, Tensor]) -> dict[str, torch.dtype]:
        """Choose the precision in which each tensor of a part is written."""
        dtypes = {each: tensor.dtype for each, tensor in tensors.items()}
        if name != "vlm" or self.keep_float32:
            return dtypes
        wide = [each for each in dtypes if parts.is_llms_own(each) and dtypes[each] == torch.float32]
        return dtypes | dict.fromkeys(wide, torch.bfloat16)


def _check_part(name: str, part: nn.Module, plan: _Plan) -> int:
    """Check the tensors of a part, and say what is to be known of them; returns the bytes that they will take."""
    with init_empty_weights():  # fresh ones need no values yet
        filling = PARTS[name](plan.paths, plan.config)
    weights.require_fit(part, filling.tensors, name, " and ".join(map(str, filling.files)), filling.give)
    for note in filling.notes:
        say(f"warning: {note}")
    dtypes = plan.dtypes(name, filling.tensors)
    return sum(tensor.numel() * dtypes[each].itemsize for each, tensor in filling.tensors.items())


def _write_part(name: str, part: Any, plan: _Plan, folder: Path, unexpected: Iterable[str]) -> PartReport:
    """Save a part that is on the meta device with its tensors, as its library does."""
    filling = PARTS[name](plan.paths, plan.config)
    report, files, tensors = _report(part, filling, unexpected), filling.files, filling.tensors
    del filling  # what it refers to is let go as it is written
    if isinstance(part, ModelMixin):
        part.save_config(folder)
        stem = "diffusion_pytorch_model"
        write_tensors(tensors, folder, stem, plan.dtypes(name, tensors), plan.shard_bytes)
    else:  # the text encoder, of transformers
        part.load_state_dict(tensors, assign=True)
        part.save_pretrained(folder, max_shard_size=plan.shard_bytes)
        nn.Module.to(part, "meta")
    say(report.line(name, files))
    return report


def _require_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed + SMALL_BYTES:
        wanted = math.ceil((needed + SMALL_BYTES) / 1e8) / 10
        raise OSError(
            f"the disk of {folder} has {free / 1e9:.1f} GB free, and the pipeline takes {wanted:.1f}; make room, or "
            "name another disk in --out or, for an s3:// address, in TMPDIR"
        )


def _report(part: nn.Module, filling: parts.Filling, unexpected: Iterable[str]) -> PartReport:
    return PartReport(
        parameters=sum(parameter.numel() for parameter in part.parameters()),
        loaded=len(filling.published) - len(filling.partly),
        partly=tuple(f"{tensor} ({share})" for tensor, share in filling.partly.items()),
        missing=tuple(sorted({re.sub(r"(?<=\.)\d+(?=\.)", "*", tensor) for tensor in filling.fresh})),
        unexpected=tuple(unexpected),
    )


def _llm_config(folder: Path) -> LlamaConfig:
    """Read the settings of an LLM, alone or inside LLaVA or Groma; those that are left out are LLaMA-7B's.

    Raises:
        CheckpointFileError: they are not there, or of another kind.
    """
    config = read_json(path := folder / "config.json")
    try:
        return LlamaConfig.from_dict(config.get("text_config") or config.get("llm_cfg") or config)
    except (StrictDataclassError, TypeError) as error:
        found = " ".join(str(error).split())[:200]
        raise CheckpointFileError(f"{path} holds no settings of a LLaMA ({found}); download it again") from None


def _check_llm_config(found: LlamaConfig, own: LlamaConfig, path: Path) -> None:
    """Raise WeightsError if the LLM computes otherwise than the VLM with the same weights."""
    for name, key in LLM_SETTINGS.items():
        if (value := getattr(found, name)) != (wanted := getattr(own, name)):
            raise weights.WeightsError(
                f"vlm: {path}: {key}: found {value}, not {wanted}; give an LLM without it, such as lmsys/vicuna-7b-v1.5"
            )


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
