"""Sizes of the model in a recipe: a preset with overrides, and the weights that fit them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from accelerate import init_empty_weights
from peft.tuners.tuners_utils import BaseTunerLayer
from pydantic import BeforeValidator

from fireedit.models.detector import DetectorConfig
from fireedit.models.detectors.kinds import kind_of, load_detector
from fireedit.models.hvca import HVCA, HVCAConfig
from fireedit.models.model import FireEditConfig, preset
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.vlm import VLM
from fireedit.models.weights import fresh_lora, load_strict
from fireedit.platform import storage
from fireedit.platform.config import RecipeError, to_plain

LORA = "vlm.lora_"
"""Prefix of sizes that may change between stages: the weights' LoRA is merged into the LLM, and a fresh one begins."""
WEIGHTS_DECIDE = ("vision.groma_compat", "region_encoder.groma_compat", "vlm.norm_eps")
"""Settings that convert.py takes from published weights; a pipeline folder keeps them."""
DETECTOR, PROPOSALS = "detector.", "detector.proposals."
"""Prefixes of the detector's settings, which a recipe decides if its detector is a published one, and of those that all
kinds share."""
RECIPE_DECIDES = ("hvca.null_detail",)
"""Settings that a recipe decides whatever the weights were trained with; `apply_settings` gives them to the parts."""
SOURCES = "hvca.sources"
"""Setting that may change while HVCA is untrained, as it is before stage 3, which then begins one of these sources."""
BASE, LORA_INFIX = ".base_layer.", ".lora_"
"""Infixes of the names of weights below a LoRA, and of its own."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig(FireEditConfig):
    """Sizes of every part: those of a preset but for what the recipe overrides."""

    preset: Literal["nano", "paper"]


def _with_preset(model: Any) -> Any:
    """Fill in the preset's sizes: `{preset: nano, vlm: {lora_rank: 16}}` becomes every size.

    A detector of another kind than the preset's has only the selection of regions from it.
    """
    if not isinstance(model, Mapping) or not isinstance(model.get("preset"), str):
        return model
    sizes = to_plain(preset(model["preset"]))
    changed = model.get("detector")
    if isinstance(changed, Mapping) and kind_of(sizes["detector"] | changed) != kind_of(sizes["detector"]):
        sizes["detector"] = {"proposals": sizes["detector"]["proposals"]}
    return _merged(sizes, model)


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
        merged[key] = _merged(base[key], value) if both else value
    return merged


ModelSizes = Annotated[ModelConfig, BeforeValidator(_with_preset)]


def differences(
    saved: Mapping[str, Any], sizes: Mapping[str, Any], section: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Walk the dotted keys of sizes that are saved with other values, and both values."""
    for name, value in sizes.items():
        key, found = f"{section}{name}", saved.get(name, value)
        if isinstance(value, Mapping) and isinstance(found, Mapping):
            yield from differences(found, value, f"{key}.")
        elif found != value and section != "painting.":  # sampler settings are no sizes
            yield key, found, value


def same_sizes(saved: Any, sizes: FireEditConfig, but: Sequence[str] = RECIPE_DECIDES) -> bool:
    """Compare the `model` of a saved recipe with sizes, but for some keys; older recipes, which hold a name only, match
    none."""
    return isinstance(saved, Mapping) and all(
        key in but or _of_new_detector(key, sizes) for key, *_ in differences(saved, to_plain(sizes))
    )


def require_sizes(sizes: ModelConfig, folder: str) -> None:
    """Raise RecipeError if a pipeline folder was saved with other sizes than a recipe's, LoRA's apart, or with an HVCA
    that was trained on other sources."""
    paths = {part: storage.join(folder, part, "config.json") for part in to_plain(sizes)}
    saved = {part: json.loads(storage.read_bytes(path)) for part, path in paths.items() if storage.exists(path)}
    if "hvca" in saved:
        saved["hvca"].setdefault("sources", HVCAConfig.sources)
    for key, found, wanted in differences(saved, to_plain(sizes)):
        if key == SOURCES and not _saved_hvca(folder).untrained:
            raise RecipeError(
                f"init_from: {folder} has an HVCA trained with {key} {found}, not {wanted}; write model.{key}={found}, "
                "or weights without a trained HVCA, such as --stage 2 without=[hvca] saves"
            )
        decided = key.startswith((LORA, *WEIGHTS_DECIDE, *RECIPE_DECIDES, SOURCES)) or _of_new_detector(key, sizes)
        if not decided:
            raise RecipeError(f"init_from: {folder} has {key} {found}, not {wanted}; write model.{key}={found}")


def _saved_hvca(folder: str) -> HVCA:
    with storage.reading_folder(storage.join(folder, "hvca")) as part:
        return HVCA.from_pretrained(part)


def renew_hvca(pipeline: FireEditPipeline, sizes: FireEditConfig, seed: int) -> None:
    """Begin an HVCA where there is none, or one of other sources, which `require_sizes` found untrained."""
    if pipeline.hvca is not None and pipeline.hvca.config.sources == sizes.hvca.sources:
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pipeline.register_modules(hvca=HVCA(sizes.hvca).eval().requires_grad_(False))


def _of_new_detector(key: str, sizes: FireEditConfig) -> bool:
    """Return true for settings of a detector that `replace_detector` can load if the weights have another."""
    own = isinstance(sizes.detector, DetectorConfig)
    return not own and key.startswith(DETECTOR) and not key.startswith(PROPOSALS)


def replace_detector(pipeline: FireEditPipeline, sizes: FireEditConfig) -> None:
    """Load the published detector that a recipe names, unless the pipeline has the same one, or none.

    Raises:
        DetectorError: it is missing, damaged or of another kind.
    """
    wanted, present = sizes.detector, pipeline.detector
    if isinstance(wanted, DetectorConfig) or present is None:
        return
    if any(differences(dict(present.config), to_plain(wanted.trimmed()))):
        pipeline.register_modules(detector=load_detector(wanted))


def apply_settings(pipeline: FireEditPipeline, sizes: FireEditConfig) -> None:
    """Give a loaded pipeline's parts the recipe's values of RECIPE_DECIDES, which are saved with them."""
    for part, name in (key.split(".") for key in RECIPE_DECIDES):
        if (component := getattr(pipeline, part)) is not None:
            component.register_to_config(**{name: getattr(getattr(sizes, part), name)})


def resize_lora(pipeline: FireEditPipeline, sizes: FireEditConfig, seed: int) -> None:
    """Merge the VLM's LoRA, if it has one, into its LLM and begin one of these sizes, unless it has them already.

    Only the merged projections and the new LoRA take memory; other tensors stay where they are.
    """
    vlm = pipeline.vlm
    if not any(key.startswith("lora_") for key, _, _ in differences(to_plain(dict(vlm.config)), to_plain(sizes.vlm))):
        return
    for module in vlm.modules():
        if isinstance(module, BaseTunerLayer):
            module.merge()
    state = vlm.state_dict()
    precision = next((tensor.dtype for name, tensor in state.items() if LORA_INFIX in name), torch.float32)
    merged = {name.replace(BASE, "."): tensor for name, tensor in state.items() if LORA_INFIX not in name}
    with init_empty_weights():
        resized = VLM(replace(sizes.vlm, norm_eps=vlm.config.norm_eps))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fresh = {name: tensor.to(vlm.device, precision) for name, tensor in fresh_lora(resized).items()}
    kept = {name: merged[name.replace(BASE, ".")] for name in resized.state_dict() if name not in fresh}
    load_strict(resized, kept | fresh, source="the LLM and a fresh LoRA")
    pipeline.register_modules(vlm=resized.eval().requires_grad_(False))
