"""Sizes of the model in a recipe: a preset with overrides, and the weights that fit them."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from pydantic import BeforeValidator, TypeAdapter, ValidationError

from fireedit.models.model import FireEditConfig, preset
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.vlm import VLM
from fireedit.platform import storage
from fireedit.platform.config import to_plain
from fireedit.platform.console import say

LORA = ("vlm.lora_rank", "vlm.lora_alpha", "vlm.lora_dropout", "vlm.lora_targets")
"""Sizes that may change between stages: the weights' LoRA is merged into the LLM, and a fresh one begins."""
WEIGHTS_DECIDE = ("region_encoder.groma_compat", "vlm.norm_eps")
"""Settings that convert.py takes from published weights; a pipeline folder keeps them."""
BASE = ".base_layer."
"""Infix of the names of weights below a LoRA."""


class SizesError(ValueError):
    """Weights of other sizes than the recipe's; the message names the first and what to write."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig(FireEditConfig):
    """Sizes of every part: those of a preset but for what the recipe overrides."""

    preset: Literal["nano", "paper"]


def _with_preset(model: Any) -> Any:
    """Fill in the preset's sizes: `nano` or `{preset: nano, vlm: {lora_rank: 16}}` becomes every size."""
    sizes = {"preset": model} if isinstance(model, str) else model
    if not isinstance(sizes, Mapping) or not isinstance(sizes.get("preset"), str):
        return sizes
    return _merged(to_plain(preset(sizes["preset"])), sizes)


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
        merged[key] = _merged(base[key], value) if both else value
    return merged


ModelSizes = Annotated[ModelConfig, BeforeValidator(_with_preset)]
"""Type of a recipe's `model`, which may be written as a preset's name."""
MODEL_SIZES: TypeAdapter[ModelConfig] = TypeAdapter(ModelSizes)


def same_sizes(saved: Any, sizes: ModelConfig) -> bool:
    """Compare the `model` of a saved recipe, short or whole, with sizes; how it paints does not count."""
    try:
        before = MODEL_SIZES.validate_python(saved)
    except ValidationError:
        return False
    return replace(before, painting=sizes.painting) == sizes


def require_sizes(sizes: ModelConfig, folder: str) -> None:
    """Raise SizesError if a pipeline folder was saved with other sizes than a recipe's, LoRA's apart."""
    for key, found, wanted in _differences(sizes, folder):
        if key not in LORA:
            others = ", or init_from=fresh" if sizes.preset == "nano" else ""
            raise SizesError(f"init_from: {folder} has {key} {found}, not {wanted}; write model.{key}={found}{others}")
        say(f"{key} {found} of {folder} becomes {wanted}: its LoRA is merged into the LLM")


def _differences(sizes: ModelConfig, folder: str) -> Iterator[tuple[str, Any, Any]]:
    """List dotted keys with their values in the folder's config.json files and in the recipe, where these differ."""
    for part, fields in to_plain(sizes).items():
        path = storage.join(folder, part, "config.json")
        if not isinstance(fields, dict) or not storage.exists(path):
            continue
        saved = json.loads(storage.read_bytes(path))
        for name, wanted in fields.items():
            key, found = f"{part}.{name}", saved.get(name, wanted)
            if isinstance(wanted, dict) and isinstance(found, dict):
                found = wanted | found
            if found != wanted and key not in WEIGHTS_DECIDE:
                yield key, found, wanted


def resize_lora(pipeline: FireEditPipeline, sizes: FireEditConfig, seed: int) -> None:
    """Merge the VLM's LoRA into its LLM and begin one of these sizes, unless it has them already."""
    vlm, wanted = pipeline.vlm, to_plain(sizes.vlm)
    if all(to_plain(vlm.config[name]) == wanted[name] for name in (key.partition(".")[2] for key in LORA)):
        return
    for module in vlm.modules():
        if isinstance(module, BaseTunerLayer):
            module.merge()
    tensors = {name.replace(BASE, "."): tensor for name, tensor in vlm.state_dict().items() if "lora_" not in name}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        resized = VLM(sizes.vlm).to(vlm.dtype).eval().requires_grad_(False)
    state = resized.state_dict()
    resized.load_state_dict({name: tensors.get(name.replace(BASE, "."), tensor) for name, tensor in state.items()})
    pipeline.register_modules(vlm=resized)
