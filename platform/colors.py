"""Colors as a file stores them, to 8-bit sRGB with straight alpha: ICC profiles, gamma, 16 bits, palettes, CMYK."""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageCms

Converter = Callable[[Image.Image], Image.Image]
"""Converts a part of a picture, as stored, to RGB, or to RGBA if the picture has transparency."""

SRGB_GAMMA = 1 / 2.2
"""Value of a PNG's gAMA chunk that stands for sRGB."""
GAMMA_TOLERANCE = 0.01
PROBE = np.stack(np.meshgrid(*[np.linspace(0, 255, 16)] * 3), axis=-1).reshape(64, 64, 3).astype(np.uint8)
"""Colors all over the cube, by which a profile that is sRGB's under any name is told."""


def srgb_converter(image: Image.Image) -> Converter:
    """Build the conversion of an image's parts; profiles that are damaged or of another kind of color are ignored."""
    to_rgb, base = _color_conversion(image), _base_mode(image)
    has_alpha = image.has_transparency_data
    is_deep = image.mode.startswith("I") and np.max(image.getextrema()) > 255

    def convert(part: Image.Image) -> Image.Image:
        if not has_alpha:
            return to_rgb(_based(part, base, is_deep))
        if part.mode.startswith("I"):
            alpha = np.where(np.asarray(part) == part.info["transparency"], 0, 255).astype(np.uint8)
            rgb = to_rgb(_based(part, base, is_deep))
            rgb.putalpha(Image.fromarray(alpha))
            return rgb
        rgba = part.convert("RGBA")
        rgb = to_rgb(_based(rgba.convert("RGB"), base, False))
        rgb.putalpha(rgba.getchannel("A"))
        return rgb

    return convert


def is_plain_srgb(image: Image.Image) -> bool:
    """Tell if an image's pixels are 8-bit sRGB as stored."""
    return image.mode == "RGB" and _profile_conversion(image, "RGB") is None and _gamma_table(image) is None


def _base_mode(image: Image.Image) -> str:
    """Name the mode, without transparency, whose values the image's profile describes."""
    if image.mode == "CMYK":
        return "CMYK"
    return "L" if image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I") else "RGB"


def _based(part: Image.Image, base: str, is_deep: bool) -> Image.Image:
    if part.mode.startswith("I;16") or is_deep:  # 16-bit gray, which Pillow would clip at 255
        return Image.fromarray((np.asarray(part).astype(np.uint32) >> 8).astype(np.uint8))
    return part.convert(base)


def _color_conversion(image: Image.Image) -> Converter:
    if (transform := _profile_conversion(image, _base_mode(image))) is not None:
        return lambda part: transform.apply(part)
    if (table := _gamma_table(image)) is not None:
        return lambda part: part.convert("RGB").point(table * 3)
    return lambda part: part.convert("RGB")


def _profile_conversion(image: Image.Image, base: str) -> ImageCms.ImageCmsTransform | None:
    """Build lcms's transform by the image's profile; None without one, or if it changes no color by more than 1."""
    spaces = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        if profile.profile.xcolor_space.strip() != spaces[base]:
            return None
        transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), base, "RGB")
        probe = Image.fromarray(PROBE).convert(base)
        changed = np.asarray(transform.apply(probe)).astype(int) - np.asarray(probe.convert("RGB"))
    except (KeyError, TypeError, ValueError, OSError, ImageCms.PyCMSError):
        return None
    return transform if np.abs(changed).max() > 1 else None


def _gamma_table(image: Image.Image) -> list[int] | None:
    """Compute the sRGB value of each value of a PNG with a gamma of its own; a profile or an sRGB mark goes before."""
    gamma = image.info.get("gamma")
    if not isinstance(gamma, float) or "icc_profile" in image.info or "srgb" in image.info:
        return None
    if not 0.05 <= gamma <= 20 or abs(gamma - SRGB_GAMMA) <= GAMMA_TOLERANCE:
        return None
    light = np.linspace(0, 1, 256) ** (1 / gamma)
    srgb = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(255 * srgb).astype(int).tolist()
