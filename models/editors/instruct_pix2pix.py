"""InstructPix2Pix as an editor, and systems of its architecture: CLIP's text states condition an 8-channel UNet.

The weights are loaded, as diffusers publishes them, into FireEdit's own pipeline: text encoder, UNet and VAE. A folder
of FireEdit's own makes the same editor of its UNet without the VLM, which shows what the VLM adds.

Source: InstructPix2Pix (arXiv 2211.09800); settings and sizes of its edit_cli.py.
"""

import inspect
import math
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import init_empty_weights
from diffusers import EulerAncestralDiscreteScheduler, UNet2DConditionModel
from PIL import Image, ImageOps
from transformers import CLIPTextModel

from fireedit.models import weights
from fireedit.models.checkpoint_files import check_pipeline, read_json, read_tensors, read_tokenizer
from fireedit.models.editors.editor import PUBLISHED, require_pipeline, require_unchanged
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.processor import squash
from fireedit.models.settings import PaintSettings
from fireedit.models.text import text_states, tokenize_text
from fireedit.models.unet import EditUNet, UNetConfig
from fireedit.models.vae import EditVAE

NAME = "instruct-pix2pix"
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
"""Components of FireEditPipeline that edit without detector, VLM, TATI and HVCA."""
SETTINGS = PaintSettings(num_inference_steps=100, guidance_scale=7.5, image_guidance_scale=1.5)
RESOLUTION = 512
"""Pixels of a picture's longer side, about."""
MULTIPLE = 64
"""Both sides are multiples of it."""


def fit(picture: Image.Image) -> Image.Image:
    """Scale so that the shorter side is a multiple of 64 and the longer about 512; crop the latter to a multiple."""
    shorter, longer = sorted(picture.size)
    scale = math.ceil(shorter * (RESOLUTION / longer) / MULTIPLE) * MULTIPLE / shorter
    width, height = (int(side * scale // MULTIPLE) * MULTIPLE for side in picture.size)
    return ImageOps.fit(picture, (width, height), method=Image.Resampling.LANCZOS)


class InstructPix2Pix:
    """Editor of InstructPix2Pix's architecture.

    Args:
        pipeline: text encoder, tokenizer, UNet, VAE and scheduler.
        fit: brings a picture to the size that is painted.
    """

    def __init__(
        self,
        name: str,
        pipeline: FireEditPipeline,
        settings: PaintSettings = SETTINGS,
        fit: Callable[[Image.Image], Image.Image] = fit,
    ):
        self.name, self.pipeline, self.settings, self.fit = name, pipeline, settings, fit
        self.weights = weights.fingerprint(pipeline.model)
        pipeline.set_progress_bar_config(disable=True)

    @torch.no_grad()
    def edit(
        self, pictures: Sequence[np.ndarray], instructions: Sequence[str], seeds: Sequence[int], settings: PaintSettings
    ) -> list[np.ndarray]:
        require_unchanged(self, settings, "keep_below")
        canvases = [np.asarray(self.fit(Image.fromarray(picture))) for picture in pictures]
        edited: list[np.ndarray] = [*canvases]
        for places in _by_shape(canvases):
            texts, noise = [instructions[place] for place in places], [seeds[place] for place in places]
            painted = self._paint([canvases[place] for place in places], texts, noise, settings)
            for place, picture in zip(places, painted, strict=True):
                edited[place] = picture
        return edited

    def _paint(
        self, canvases: Sequence[np.ndarray], instructions: Sequence[str], seeds: Sequence[int], settings: PaintSettings
    ) -> np.ndarray:
        """Edit canvases of one size, each uint8 [H, W, 3], to uint8 [B, H, W, 3]."""
        text_encoder = self.pipeline.text_encoder
        ids = tokenize_text(self.pipeline.tokenizer, list(instructions), text_encoder.config.max_position_embeddings)
        tokens = text_states(text_encoder, ids.to(text_encoder.device))
        noise = [torch.Generator().manual_seed(seed) for seed in seeds]
        state = self.pipeline.prepare(canvases, None, tokens, settings, noise)
        return self.pipeline.decode(self.pipeline.paint(state))


def load(folder: Path | str, device: str) -> InstructPix2Pix:
    """Load diffusers' folder, such as `timbrooks/instruct-pix2pix`, or one of FireEdit's own."""
    pipeline = load_instruct_pix2pix(folder).to(device)
    return InstructPix2Pix(NAME, pipeline) if _is_published(folder) else without_vlm(pipeline, pipeline.settings)


def without_vlm(pipeline: FireEditPipeline, settings: PaintSettings) -> InstructPix2Pix:
    """Make the editor of a FireEdit pipeline's own UNet, on its square canvas and with its own scheduler."""
    side = pipeline.vae.config.sample_size
    return InstructPix2Pix(NAME, pipeline, settings, fit=lambda picture: Image.fromarray(squash(picture, side)))


def _by_shape(canvases: Sequence[np.ndarray]) -> list[list[int]]:
    """Group the places of canvases of one shape."""
    groups = defaultdict[tuple[int, ...], list[int]](list)
    for place, canvas in enumerate(canvases):
        groups[canvas.shape].append(place)
    return list(groups.values())


def load_instruct_pix2pix(
    folder: str | os.PathLike[str], parts: Sequence[str] = PARTS, dtype: torch.dtype = torch.float32
) -> FireEditPipeline:
    """Load the components of `PARTS` that `parts` names, from diffusers' folder or from one of FireEdit's own.

    A prompt's edit tokens are then its CLIP text states, and guidance is InstructPix2Pix's equation 3 at any scales;
    diffusers leaves it out for guidance scales of 1 or less. A folder of diffusers' is sampled with Euler's ancestral
    method, as edit_cli.py does, whatever scheduler it names.

    Raises:
        EditorError: the folder holds another pipeline.
        CheckpointFileError: a file is missing, damaged or not what its name says.
        WeightsError: tensors are missing, or the UNet is none of Stable Diffusion 1's architecture with eight input
            channels.
    """
    wanted = [part for part in parts if part in PARTS]
    require_pipeline(NAME, str(folder))
    if not _is_published(folder):
        return FireEditPipeline.from_pretrained(folder, parts=wanted, dtype=dtype)
    check_pipeline(Path(folder), wanted)
    loaders = {
        "unet": _unet,
        "vae": _vae,
        "text_encoder": lambda path: weights.load_whole(CLIPTextModel, path),
        "tokenizer": read_tokenizer,
        "scheduler": _scheduler,
    }
    return text_pipeline(freeze({part: loaders[part](Path(folder) / part) for part in wanted}, dtype))


def _is_published(folder: str | os.PathLike[str]) -> bool:
    """Return whether a folder is diffusers'; the others are FireEdit's own."""
    index = Path(folder) / "model_index.json"
    return index.is_file() and read_json(index, "_class_name")["_class_name"] == PUBLISHED


def text_pipeline(parts: Mapping[str, Any], settings: PaintSettings | None = None) -> FireEditPipeline:
    """Make a pipeline of components of `PARTS`, with the paper's settings by default."""
    components: dict[str, Any] = dict.fromkeys(FireEditPipeline._optional_components)
    return FireEditPipeline(**(components | dict(parts)), settings=asdict(settings or PaintSettings()))


def freeze(parts: Mapping[str, Any], dtype: torch.dtype = torch.float32) -> Mapping[str, Any]:
    """Freeze the modules among components, and convert them to `dtype`."""
    for part in parts.values():
        if isinstance(part, torch.nn.Module):
            part.to(dtype).eval().requires_grad_(False)
    return parts


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
    side = read_json(folder.parent / "unet" / "config.json", "sample_size")["sample_size"]
    with init_empty_weights():
        vae = EditVAE.from_config(config | {"sample_size": side * 2 ** (len(config["block_out_channels"]) - 1)})
    weights.load_strict(vae, weights.stable_diffusion_vae(read_tensors(folder)), source=str(folder))
    return vae


def _scheduler(folder: Path) -> EulerAncestralDiscreteScheduler:
    return EulerAncestralDiscreteScheduler.from_config(read_json(folder / "scheduler_config.json"))
