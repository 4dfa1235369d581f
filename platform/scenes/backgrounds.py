"""Backgrounds of scenes: photos that scikit-image ships, and drawn landscapes."""

import dataclasses
import functools
import random
from typing import Literal

import numpy as np
from PIL import Image

from fireedit.platform.scenes import assets

Color = tuple[int, int, int]
Split = Literal["train", "unseen"]

PICTURE_SIZE = 400
"""Short side, in pixels, of the pictures that windows are cut from."""
VARIANTS = 8
"""Pictures drawn of each landscape."""
WINDOWS_KEPT = 64
"""Windows cached in a process, of all sizes together."""


@dataclasses.dataclass(frozen=True)
class Photo:
    """A photo, or the part of it that shows the background's noun phrase."""

    file: str
    split: Split = "train"
    part: tuple[float, float, float, float] = (0, 0, 1, 1)
    """Left, top, right, bottom in [0, 1] of the sides."""
    tint: Color | None = None
    """RGB that middle gray becomes, for gray textures."""


@dataclasses.dataclass(frozen=True)
class Landscape:
    """A drawn view of a sky over a ground, with clouds, grain and a wavy horizon."""

    sky: Color
    haze: Color
    """RGB of the sky at the horizon."""
    ground: Color
    split: Split = "train"
    waves: float = 0.03
    """Amplitude of the horizon's wave, in fractions of the height."""
    band: Color | None = None
    """RGB of a strip between sky and ground, such as the sea."""
    stars: bool = False


BACKGROUNDS: dict[str, Photo | Landscape] = {
    "a cup of coffee": Photo("coffee.png", "unseen"),
    "a wooden table": Photo("coffee.png", part=(0.8, 0.6, 1, 1)),
    "an astronaut": Photo("astronaut.png", part=(0.02, 0, 0.72, 0.7)),
    "launch towers at dusk": Photo("rocket.jpg", "unseen", part=(0, 0, 0.5, 1)),
    "outer space": Photo("hubble_deep_field.jpg", "unseen", part=(0, 0, 0.6, 0.6)),
    "a storage shelf": Photo("motorcycle_left.png", "unseen", part=(0.74, 0, 1, 0.4)),
    "a green lawn": Photo("grass.png", part=(0, 0, 0.6, 0.6), tint=(96, 150, 50)),
    "gray gravel": Photo("gravel.png", part=(0, 0, 0.6, 0.6)),
    "a red brick road": Photo("brick.png", "unseen", part=(0, 0, 0.8, 0.8), tint=(190, 95, 75)),
    "a sandy beach": Landscape((120, 190, 240), (200, 230, 250), (232, 208, 150), waves=0.01, band=(50, 130, 190)),
    "a desert at dusk": Landscape((250, 140, 80), (255, 215, 150), (200, 140, 80)),
    "a green hill": Landscape((90, 160, 240), (200, 225, 255), (90, 170, 70), waves=0.06),
    "a living room": Landscape((222, 208, 190), (236, 226, 212), (150, 105, 70), waves=0, band=(245, 240, 232)),
    "old coins": Photo("coins.png", "unseen"),
    "a snowy field": Landscape((150, 180, 210), (225, 235, 245), (240, 244, 250), "unseen"),
    "a night street": Landscape((10, 14, 40), (40, 44, 90), (60, 60, 70), "unseen", 0, (90, 80, 50), stars=True),
    "the moon": Landscape((4, 4, 12), (20, 20, 40), (150, 150, 155), "unseen", stars=True),
    "moon craters": Photo("moon.png", "unseen"),
    "striped fur": Photo("chelsea.png", "unseen", part=(0.28, 0, 0.62, 0.24)),
    "a printed page": Photo("page.png", "unseen", part=(0, 0, 0.9, 0.82)),
    "cells under a microscope": Photo("ihc.png", "unseen"),
    "the back of an eye": Photo("retina.jpg", "unseen", part=(0.16, 0.16, 0.84, 0.84)),
}
"""Backgrounds by the noun phrase that instructions and captions use."""


@functools.lru_cache(maxsize=WINDOWS_KEPT)
def cut(name: str, seed: int, size: int) -> np.ndarray:
    """Cut a square window out of a background; the seed picks the same window at every size.

    Returns:
        [size, size, 3] uint8 RGB, read-only.
    """
    rng = random.Random(seed)
    background, variant = BACKGROUNDS[name], rng.randrange(VARIANTS)
    image = _photo(background) if isinstance(background, Photo) else _landscape(background, variant)
    side = rng.uniform(0.7, 1) * min(image.size)
    left, top = rng.uniform(0, image.width - side), rng.uniform(0, image.height - side)
    window = image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    pixels = np.array(window)
    if rng.random() < 0.5:
        pixels = np.ascontiguousarray(pixels[:, ::-1])
    pixels.flags.writeable = False
    return pixels


@functools.cache
def _photo(photo: Photo) -> Image.Image:
    with Image.open(assets.photo(photo.file)) as file:
        image = file.convert("RGB")
    left, top, right, bottom = photo.part
    box = (left * image.width, top * image.height, right * image.width, bottom * image.height)
    scale = PICTURE_SIZE / min(box[2] - box[0], box[3] - box[1])
    size = round((box[2] - box[0]) * scale), round((box[3] - box[1]) * scale)
    image = image.resize(size, Image.Resampling.BICUBIC, box=box)
    if photo.tint is None:
        return image
    tinted = np.asarray(image).astype(np.float32) / 128 * np.array(photo.tint)
    return Image.fromarray(tinted.clip(0, 255).astype(np.uint8))


@functools.cache
def _landscape(land: Landscape, variant: int) -> Image.Image:
    rng = np.random.default_rng(variant)
    side = PICTURE_SIZE
    sky, haze, ground = (np.array(color, np.float32) for color in (land.sky, land.haze, land.ground))
    down = np.linspace(0, 1, side, dtype=np.float32)[:, None]
    across = np.linspace(0, 2 * np.pi, side, dtype=np.float32)
    wave = np.sin(across * rng.uniform(0.6, 2) + rng.uniform(0, 6))
    horizon = 0.5 + rng.uniform(-0.06, 0.06) + land.waves * wave[None]
    clouds = _clouds(rng, side)[..., None]
    grain = rng.standard_normal((side, side, 1)).astype(np.float32)
    upper = sky + (haze - sky) * np.clip(down / horizon, 0, 1)[..., None] + 12 * clouds
    lower = ground * (0.75 + 0.25 * down)[..., None] + 40 * clouds + 8 * grain
    if land.stars:
        dots = rng.random((side // 4, side // 4)) > 0.985  # of 4 px, so that they survive scaling to 64 px
        upper = np.where(np.kron(dots, np.ones((4, 4), bool))[..., None], 235, upper)
    pixels = np.where((down < horizon)[..., None], upper, lower)
    if land.band:
        strip = (down >= horizon) & (down < horizon + 0.05)
        pixels = np.where(strip[..., None], np.array(land.band) + 4 * grain, pixels)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _clouds(rng: np.random.Generator, side: int) -> np.ndarray:
    """Draw smooth noise: [side, side] float in [-0.5, 0.5], of one cell per sixteenth of the side."""
    coarse = Image.fromarray((rng.random((16, 16)) * 255).astype(np.uint8))
    return np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), np.float32) / 255 - 0.5
