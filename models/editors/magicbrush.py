"""MagicBrush as an editor: InstructPix2Pix tuned on MagicBrush. Source: MagicBrush (arXiv 2306.10012)."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from diffusers import EulerAncestralDiscreteScheduler
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)
from torch import Tensor

from fireedit.models.checkpoint_files import CheckpointFileError, read_lightning, read_tokenizer
from fireedit.models.editors.instruct_pix2pix import InstructPix2Pix, freeze, load_instruct_pix2pix, text_pipeline
from fireedit.models.model import FireEditConfig, preset
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.schedule import sampler
from fireedit.models.text import build_text_encoder
from fireedit.models.unet import EditUNet
from fireedit.models.vae import EditVAE, VAEConfig
from fireedit.models.weights import clip_text, load_strict, stable_diffusion_unet, stable_diffusion_vae


def load(folder: Path, device: str) -> InstructPix2Pix:
    """Load a diffusers folder, or one of the authors' checkpoint, `MagicBrush-epoch-52-step-4999.ckpt`.

    Beside the latter, `tokenizer/` is that of `openai/clip-vit-large-patch14`.
    """
    if (folder / "model_index.json").is_file():
        pipeline = load_instruct_pix2pix(folder)
    else:
        pipeline = load_checkpoint(_checkpoint_in(folder), folder / "tokenizer", preset("paper"))
    return InstructPix2Pix("magicbrush", pipeline.to(device))


def load_checkpoint(path: Path, tokenizer: Path, sizes: FireEditConfig) -> FireEditPipeline:
    """Load text encoder, UNet and VAE from a checkpoint of InstructPix2Pix's training code."""
    state = _averaged(read_lightning(path))
    unet, text_encoder, vae = EditUNet(sizes.unet), build_text_encoder(sizes.text), EditVAE(_of_pictures(sizes))
    converted = convert_ldm_unet_checkpoint(state, asdict(sizes.unet))
    load_strict(unet, stable_diffusion_unet(converted), source=str(path))
    load_strict(text_encoder, clip_text(convert_ldm_clip_checkpoint(state)), source=str(path))
    converted = convert_ldm_vae_checkpoint(state, asdict(sizes.vae))
    load_strict(vae, stable_diffusion_vae(converted), source=str(path))
    parts = {"unet": unet, "vae": vae, "text_encoder": text_encoder, "tokenizer": read_tokenizer(tokenizer)}
    scheduler = EulerAncestralDiscreteScheduler.from_config(sampler(sizes.schedule).config)
    return text_pipeline(freeze(parts | {"scheduler": scheduler}))


def _averaged(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put the moving averages of the UNet's weights, with which edit_cli.py samples, in the place of the weights."""

    def average(name: str) -> str:
        return f"model_ema.{name.removeprefix('model.').replace('.', '')}"

    return {name: state.get(average(name), tensor) for name, tensor in state.items() if "model_ema." not in name}


def _of_pictures(sizes: FireEditConfig) -> VAEConfig:
    assert isinstance(sizes.vae, VAEConfig), "a checkpoint of Stable Diffusion has a VAE"
    return sizes.vae


def _checkpoint_in(folder: Path) -> Path:
    files = sorted(folder.glob("*.ckpt"))
    if len(files) == 1 and (folder / "tokenizer").is_dir():
        return files[0]
    found = ", ".join(sorted(path.name for path in folder.glob("*"))) or "nothing"
    raise CheckpointFileError(
        f"{folder}: found {found}; it should hold diffusers' model_index.json, or one .ckpt and tokenizer/, that of "
        "openai/clip-vit-large-patch14"
    )
