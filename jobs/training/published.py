"""Conversion of published checkpoints to a pipeline folder of this project, part by part."""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from tokenizers import Tokenizer
from torch import nn
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from fireedit.jobs.training import published_parts as parts
from fireedit.jobs.training.published_files import PublishedPaths, check_sources, sources_of
from fireedit.models import weights
from fireedit.models.checkpoint_files import read_json, read_tokenizer
from fireedit.models.detector import DetectorConfig
from fireedit.models.detectors.kinds import load_detector
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


@dataclass(frozen=True)
class PartReport:
    """Conversion of one part."""

    parameters: int
    loaded: int
    """Number of tensors from published files."""
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
        text += f", missing and begun afresh: {_listed(self.missing, 8)}" if self.missing else ", none missing"
        text += f", unexpected: {_listed(self.unexpected, 8)}" if self.unexpected else ", none unexpected"
        places = " and ".join(map(str, files))
        return f"{text}; from {places}" if places else text


def convert(paths: PublishedPaths, config: FireEditConfig, folder: Path, seed: int = 0) -> dict[str, PartReport]:
    """Write a pipeline folder of published weights in their published precision; `seed` draws the rest.

    Each part is saved before the next one is read, so that the largest one decides the memory that this takes.

    Args:
        folder: of the pipeline; `model_index.json` is written last.
    Raises:
        CheckpointFileError: a file is missing, damaged or not what its name says.
        WeightsError: the tensors of a file do not fit.
        DetectorError: a config names a published detector that cannot be loaded.
    """
    unexpected = check_sources(sources_of(paths))
    # The tokenizers are read first: an unreadable one should not cost the minutes that the tensors take.
    vlm_tokenizer, tokenizer = read_tokenizer(paths.language_model), read_tokenizer(paths.clip)
    config = replace(
        config,
        vision=replace(config.vision, groma_compat=True),
        region_encoder=replace(config.region_encoder, groma_compat=True),
        vlm=replace(config.vlm, norm_eps=_norm_eps(paths.language_model)),
    )
    with init_empty_weights():
        outline = FireEdit.from_config(config)
    components: dict[str, Any] = dict(outline.named_children())
    others: dict[str, Any] = {
        "vlm_tokenizer": _without_added_tokens(vlm_tokenizer, config.vlm.vocab_size),
        "tokenizer": tokenizer,
        "scheduler": sampler(config.schedule),
    }
    pipeline = FireEditPipeline(**components, **others, settings=asdict(config.painting))
    torch.manual_seed(seed)
    reports = {
        name: _write_part(name, components[name], paths, config, folder, unexpected.get(name, ())) for name in PARTS
    }
    for name, component in others.items():
        component.save_pretrained(folder / name)
    pipeline.save_config(folder)
    return reports


def _write_part(
    name: str, part: Any, paths: PublishedPaths, config: FireEditConfig, folder: Path, unexpected: Iterable[str]
) -> PartReport:
    """Fill a part that is on the meta device, save it, and free its memory."""
    if name == "detector" and not isinstance(config.detector, DetectorConfig):
        detector: Any = load_detector(config.detector)
        detector.save_pretrained(folder / name)
        report = PartReport(_count(detector), len(detector.state_dict()), (), ())
        say(report.line(name, ()))
        return report
    filling = PARTS[name](paths, config)
    _check_fit(name, part, filling)
    weights.load_strict(part, {**filling.published, **filling.fresh}, source=name)
    part.eval().save_pretrained(folder / name)
    missing = tuple(sorted({re.sub(r"(?<=\.)\d+(?=\.)", "*", tensor) for tensor in filling.fresh}))
    report = PartReport(_count(part), len(filling.published), missing, tuple(unexpected))
    say(report.line(name, filling.files))
    nn.Module.to(part, "meta")
    return report


def _check_fit(name: str, part: nn.Module, filling: parts.Filling) -> None:
    """Raise WeightsError, in one sentence, unless the tensors are those of the part."""
    wanted = {tensor: list(value.shape) for tensor, value in part.state_dict().items()}
    found = {tensor: list(value.shape) for tensor, value in (filling.published | filling.fresh).items()}
    missing, unknown = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    wrong = [tensor for tensor in wanted if tensor in found and found[tensor] != wanted[tensor]]
    faults = [f"no {_listed(missing)}"] if missing else []
    faults += [f"an unknown {_listed(unknown)}"] if unknown else []
    faults += [f"{tensor} of shape {found[tensor]} in place of {wanted[tensor]}" for tensor in wrong[:1]]
    if faults:
        places = " and ".join(map(str, filling.files))
        raise weights.WeightsError(f"{name}: found {', '.join(faults)} in {places}; give {filling.give}")


def _listed(names: Iterable[str], most: int = 2) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _norm_eps(llm: Path) -> float:
    """Read the epsilon of LLaMA's norms; Vicuna 1.1 and 1.5 differ in it."""
    config = read_json(llm / "config.json")
    config = config.get("text_config") or config.get("llm_cfg") or config
    return config.get("rms_norm_eps", 1e-6)


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
