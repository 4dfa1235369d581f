"""Sprites of objects: artwork of one of two fonts, repainted, scaled and cached."""

import colorsys
import dataclasses
import functools
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fireedit.platform.scenes import assets
from fireedit.platform.scenes.objects import COLORS, THINGS

Artwork = Literal["openmoji", "noto"]

ARTWORK_SIZE = 256
"""Font size at which OpenMoji is drawn before scaling."""
NOTO_SIZE = 109
"""Only size at which Pillow draws Noto's emoji."""
SPRITES_KEPT = 640
"""Scaled sprites cached in a process: at one size, all that the training world draws."""

_SHADES = {
    "red": ((0xEA, 0x5A, 0x47), (0xD2, 0x2F, 0x27)),
    "orange": ((0xF4, 0xAA, 0x41), (0xE2, 0x70, 0x22)),
    "yellow": ((0xFC, 0xEA, 0x2B), (0xF1, 0xB3, 0x1C)),
    "green": ((0xB1, 0xCC, 0x33), (0x5C, 0x9E, 0x31)),
    "blue": ((0x92, 0xD3, 0xF5), (0x61, 0xB2, 0xE4)),
    "purple": ((0xB3, 0x99, 0xC8), (0x89, 0x67, 0xAA)),
    "pink": ((0xFF, 0xA7, 0xC0), (0xE6, 0x7A, 0x94)),
    "white": ((0xFF, 0xFF, 0xFF),),
}
"""OpenMoji's palette: lit and shaded tone of each color. Its outlines are black."""
_SHADED = 0.8
"""Brightness of the shaded tone of a new color."""

_NOTO_PAINT = {"butterfly": "orange", "key": "yellow", "bucket": "blue"}
_NOTO_PAINT |= dict.fromkeys(("apple", "backpack", "balloon", "book", "car"), "red")
"""Color of the things that Noto draws in one plain color; only these are repainted."""
_HUES_APART = 20
"""Greatest distance, of 256, of a hue to the color that it is a shade of."""


@dataclasses.dataclass(frozen=True, eq=False)
class Sprite:
    """Pixels of an object at one size, ready to be blended into a picture."""

    rgb: np.ndarray
    """[h, w, 3] uint16 in 0..255, premultiplied by alpha."""
    alpha: np.ndarray
    """[h, w, 1] uint16 in 0..255."""
    mask: np.ndarray
    """[h, w] bool: pixels that hide the background."""

    def mirrored(self) -> "Sprite":
        return Sprite(self.rgb[:, ::-1], self.alpha[:, ::-1], self.mask[:, ::-1])


@functools.lru_cache(maxsize=SPRITES_KEPT)
def draw(name: str, color: str, height: int, artwork: Artwork = "openmoji") -> Sprite:
    """Scale a thing's emoji to a height in pixels; an empty `color` keeps the artwork's own."""
    image = repainted(name, color, artwork) if color else emoji(name, artwork)
    width = max(2, round(height * aspect(name, artwork)))
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BOX if height < image.height else None))
    alpha = pixels[..., 3:].astype(np.uint16)
    return Sprite(pixels[..., :3] * alpha // 255, alpha, alpha[..., 0] > 127)


@functools.cache
def aspect(name: str, artwork: Artwork = "openmoji") -> float:
    """Return width over height of a thing's emoji."""
    image = emoji(name, artwork)
    return image.width / image.height


def paint(name: str, artwork: Artwork = "openmoji") -> str:
    """Return the color of a thing's main part, which can be repainted; empty for a thing of fixed color."""
    return THINGS[name].paint if artwork == "openmoji" else _NOTO_PAINT.get(name, "")


@functools.cache
def emoji(name: str, artwork: Artwork = "openmoji") -> Image.Image:
    """Draw a thing's emoji as RGBA, cropped to its drawn pixels."""
    font = _font(artwork)
    side = round(font.size * 1.5)
    image = Image.new("RGBA", (side, side))
    place = (side // 2, side // 2)
    ImageDraw.Draw(image).text(place, chr(THINGS[name].code), font=font, embedded_color=True, anchor="mm")
    return image.crop(image.getbbox())


@functools.lru_cache(maxsize=128)
def repainted(name: str, color: str, artwork: Artwork = "openmoji") -> Image.Image:
    """Draw the emoji with its main part in another color; outlines, windows and wheels stay."""
    image = emoji(name, artwork)
    repaint = _repaint_tones if artwork == "openmoji" else _repaint_hue
    rgb = repaint(image, paint(name, artwork), color)
    return Image.fromarray(np.dstack([rgb.clip(0, 255).astype(np.uint8), np.asarray(image)[..., 3:]]))


def _repaint_tones(image: Image.Image, paint: str, color: str) -> np.ndarray:
    """Repaint the pixels of the color's two tones, also where they blend into an outline; returns [h, w, 3] float."""
    old = np.asarray(image)[..., :3].astype(np.float32)
    rgb = old.copy()
    tones = np.array(_SHADES[paint], np.float32)
    areas = [(old == tone).all(axis=-1).sum() for tone in tones]
    darkest = 0.2 if len(tones) > 1 else 0.85  # white would otherwise match the gray parts
    for tone, area in zip(tones, areas, strict=True):
        scale = (old @ tone) / (tone @ tone)
        apart = np.abs(old - scale[..., None] * tone).max(axis=-1)
        part = (apart < 16) & (scale > darkest) & (scale < 1.1)
        strength = 1.0 if area == max(areas) else _SHADED
        rgb[part] = scale[part, None] * strength * np.array(COLORS[color], np.float32)
    return rgb


def _repaint_hue(image: Image.Image, paint: str, color: str) -> np.ndarray:
    """Repaint the pixels of the color's hue, keeping their brightness; returns [h, w, 3] float."""
    rgb = np.asarray(image)[..., :3].astype(np.float32)
    hue, saturation, value = (np.asarray(band, int) for band in image.convert("RGB").convert("HSV").split())
    own = colorsys.rgb_to_hsv(*COLORS[paint])[0] * 255
    apart = np.abs((hue - own + 128) % 256 - 128)
    part = (apart < _HUES_APART) & (saturation > 80)
    rgb[part] = value[part, None] / 255 * np.array(COLORS[color], np.float32)
    return rgb


@functools.cache
def _font(artwork: Artwork) -> ImageFont.FreeTypeFont:
    if artwork == "openmoji":
        return ImageFont.truetype(str(assets.emoji_font()), ARTWORK_SIZE)
    return ImageFont.truetype(str(assets.noto_font()), NOTO_SIZE)
