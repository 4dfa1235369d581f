"""Objects as pictures: OpenMoji artwork, repainted and scaled once and then kept."""

import dataclasses
import functools

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fireedit.platform.data.scenes import assets
from fireedit.platform.data.scenes.objects import COLORS, THINGS

ARTWORK_SIZE = 256
CACHE_BYTES = 64_000_000
"""Of scaled sprites in one process; at 64 px every sprite of the training world fits."""

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
"""OpenMoji's palette: the lit and the shaded tone of each colour. Its outlines are black."""
_SHADED = 0.8
"""How bright the shaded tone of a new colour is."""


@dataclasses.dataclass(frozen=True, eq=False)
class Sprite:
    """One object at one size, ready to be laid over a picture."""

    rgb: np.ndarray
    """[h, w, 3] uint16 in 0..255, already multiplied by alpha."""
    alpha: np.ndarray
    """[h, w, 1] uint16 in 0..255."""
    mask: np.ndarray
    """[h, w] bool: where the object hides what lies behind it."""

    def mirrored(self) -> "Sprite":
        return Sprite(self.rgb[:, ::-1], self.alpha[:, ::-1], self.mask[:, ::-1])


class SpriteCache:
    """Scaled sprites by name, colour and height; emptied when it has grown to `CACHE_BYTES`."""

    def __init__(self) -> None:
        self._sprites: dict[tuple[str, str, int], Sprite] = {}
        self._bytes = 0

    def get(self, name: str, color: str, height: int) -> Sprite:
        """The sprite of a thing, `height` pixels high; `color` is empty for the artwork's own."""
        key = (name, color, height)
        if key not in self._sprites:
            sprite = draw(name, color, height)
            size = sprite.rgb.nbytes + sprite.alpha.nbytes + sprite.mask.nbytes
            if self._bytes + size > CACHE_BYTES:
                self._sprites, self._bytes = {}, 0
            self._sprites[key] = sprite
            self._bytes += size
        return self._sprites[key]


def draw(name: str, color: str, height: int) -> Sprite:
    """Scale a thing's artwork to a height in pixels, keeping its aspect."""
    image = repainted(name, color) if color else artwork(name)
    width = max(2, round(height * aspect(name)))
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BOX if height < image.height else None))
    alpha = pixels[..., 3:].astype(np.uint16)
    return Sprite(pixels[..., :3] * alpha // 255, alpha, alpha[..., 0] > 127)


def aspect(name: str) -> float:
    """Width over height of a thing's artwork."""
    image = artwork(name)
    return image.width / image.height


@functools.cache
def artwork(name: str) -> Image.Image:
    """A thing's emoji as RGBA, cropped to what is drawn."""
    side = ARTWORK_SIZE * 3 // 2
    image = Image.new("RGBA", (side, side))
    place = (side // 2, side // 2)
    ImageDraw.Draw(image).text(place, chr(THINGS[name].code), font=_font(), embedded_color=True, anchor="mm")
    return image.crop(image.getbbox())


@functools.lru_cache(maxsize=128)
def repainted(name: str, color: str) -> Image.Image:
    """The artwork with its main part in another colour; outlines, windows and wheels keep theirs.

    A pixel belongs to the main part if it is one of its two tones, or such a tone on its way into a black outline.
    """
    pixels = np.asarray(artwork(name)).astype(np.float32)
    old, rgb = pixels[..., :3], pixels[..., :3].copy()
    tones = np.array(_SHADES[THINGS[name].paint], np.float32)
    areas = [(old == tone).all(axis=-1).sum() for tone in tones]
    darkest = 0.2 if len(tones) > 1 else 0.85  # a white part would else claim the grey ones
    for tone, area in zip(tones, areas, strict=True):
        scale = (old @ tone) / (tone @ tone)
        apart = np.abs(old - scale[..., None] * tone).max(axis=-1)
        part = (apart < 16) & (scale > darkest) & (scale < 1.1)
        strength = 1.0 if area == max(areas) else _SHADED
        rgb[part] = scale[part, None] * strength * np.array(COLORS[color], np.float32)
    painted = np.concatenate([rgb.clip(0, 255), pixels[..., 3:]], axis=-1)
    return Image.fromarray(painted.astype(np.uint8))


@functools.cache
def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(assets.emoji_font()), ARTWORK_SIZE)
