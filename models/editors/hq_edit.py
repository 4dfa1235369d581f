"""HQ-Edit as an editor: InstructPix2Pix's architecture at 512x512. Source: HQ-Edit (arXiv 2404.09990)."""

from pathlib import Path

from PIL import Image

from fireedit.models.editors.instruct_pix2pix import RESOLUTION, InstructPix2Pix, load_instruct_pix2pix
from fireedit.models.settings import PaintSettings

AS_IN_README = PaintSettings(num_inference_steps=30, guidance_scale=7.0, image_guidance_scale=1.5)
"""Settings of the README of its weights."""
AS_IN_CODE = PaintSettings(num_inference_steps=30, guidance_scale=1.5, image_guidance_scale=1.5)
"""Settings of its demonstration, which passes the scale of the image for that of the text too."""


def load(folder: Path, device: str) -> InstructPix2Pix:
    """Load diffusers' folder `UCSC-VLAA/HQ-Edit` with the settings of its README."""
    return _load("hq-edit", folder, device, AS_IN_README)


def load_as_in_code(folder: Path, device: str) -> InstructPix2Pix:
    """Load the same folder with the settings of its code."""
    return _load("hq-edit-code", folder, device, AS_IN_CODE)


def _load(name: str, folder: Path, device: str, settings: PaintSettings) -> InstructPix2Pix:
    return InstructPix2Pix(name, load_instruct_pix2pix(folder).to(device), settings, _squash)


def _squash(picture: Image.Image) -> Image.Image:
    return picture.resize((RESOLUTION, RESOLUTION), Image.Resampling.BICUBIC)
