"""InstructPix2Pix's weights, as diffusers publishes them, for FireEdit's sampler: a text encoder, a UNet and a VAE."""

import inspect
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import diffusers
import torch
from accelerate import init_empty_weights
from diffusers import UNet2DConditionModel
from transformers import CLIPTextModel

from fireedit.models import weights
from fireedit.models.checkpoint_files import check_pipeline, read_json, read_tensors, read_tokenizer
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.settings import PaintSettings
from fireedit.models.unet import EditUNet, UNetConfig
from fireedit.models.vae import EditVAE

PIPELINE = "StableDiffusionInstructPix2PixPipeline"
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
"""Components of FireEditPipeline that edit without detector, VLM, TATI and HVCA."""


def load_instruct_pix2pix(
    folder: str | os.PathLike[str], parts: Sequence[str] = PARTS, dtype: torch.dtype = torch.float32
) -> FireEditPipeline:
    """Load the components of `PARTS` that `parts` names, from diffusers' folder or from one of FireEdit's own.

    A prompt's edit tokens are then its CLIP text states, and guidance is InstructPix2Pix's equation 3 at any scales;
    diffusers leaves it out for guidance scales of 1 or less.

    Raises:
        CheckpointFileError: a file is missing, damaged or not what its name says.
        WeightsError: the UNet is none of Stable Diffusion 1's architecture with eight input channels.
    """
    wanted = [part for part in parts if part in PARTS]
    index = Path(folder) / "model_index.json"
    if not index.is_file() or read_json(index)["_class_name"] != PIPELINE:
        return FireEditPipeline.from_pretrained(folder, parts=wanted, dtype=dtype)
    check_pipeline(Path(folder), wanted)
    loaders = {
        "unet": _unet,
        "vae": _vae,
        "text_encoder": lambda path: CLIPTextModel.from_pretrained(path, dtype=torch.float32),
        "tokenizer": read_tokenizer,
        "scheduler": _scheduler,
    }
    groups = (FireEditPipeline.PERCEIVING, FireEditPipeline.UNDERSTANDING, FireEditPipeline.PAINTING)
    components: dict[str, Any] = {part: None for group in groups for part in group}
    components |= {part: loaders[part](Path(folder) / part) for part in wanted}
    for part in components.values():
        if isinstance(part, torch.nn.Module):
            part.to(dtype).eval().requires_grad_(False)
    return FireEditPipeline(**components, settings=asdict(PaintSettings()))


def _unet(folder: Path) -> EditUNet:
    config = read_json(folder / "config.json")
    check_sizes(config)
    with init_empty_weights():
        unet = EditUNet.from_config(config)
    weights.load_strict(unet, weights.stable_diffusion_unet(read_tensors(folder)), source=str(folder))
    return unet


def check_sizes(config: Mapping[str, Any]) -> None:
    """Raise WeightsError for a config.json that EditUNet cannot be built from."""
    ours = {field.name for field in fields(UNetConfig)}
    defaults = {name: each.default for name, each in inspect.signature(UNet2DConditionModel).parameters.items()}
    other = {name: value for name, value in config.items() if name in defaults and name not in ours}
    differs = {name: value for name, value in other.items() if _plain(value) != _plain(defaults[name])}
    if config["in_channels"] != 2 * config["out_channels"]:
        differs["in_channels"] = config["in_channels"]
    if differs:
        found = ", ".join(f"{name} {value}" for name, value in differs.items())
        raise weights.WeightsError(f"found a UNet of {found}; give it one of InstructPix2Pix on Stable Diffusion 1")


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _vae(folder: Path) -> EditVAE:
    """Load the VAE for pictures of the UNet's size; published VAEs name other sizes, of their own training."""
    config = read_json(folder / "config.json")
    side = read_json(folder.parent / "unet" / "config.json")["sample_size"]
    with init_empty_weights():
        vae = EditVAE.from_config(config | {"sample_size": side * 2 ** (len(config["block_out_channels"]) - 1)})
    weights.load_strict(vae, weights.stable_diffusion_vae(read_tensors(folder)), source=str(folder))
    return vae


def _scheduler(folder: Path) -> Any:
    config = json.loads((folder / "scheduler_config.json").read_text())
    return getattr(diffusers, config["_class_name"]).from_config(config)
