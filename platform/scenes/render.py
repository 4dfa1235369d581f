"""Rendering of scenes at any size, with a mask of every object."""

import dataclasses
import functools

import numpy as np
from PIL import Image, ImageFilter

from fireedit.platform.scenes import backgrounds, sprites
from fireedit.platform.scenes.scene import HEIGHT_STEPS, MIRROR_FRAME, Mirror, Placed, Scene

_GRAY = np.array((0.299, 0.587, 0.114))
_SEPIA = np.array((1.07, 0.94, 0.72))
_NIGHT = np.array((0.28, 0.32, 0.55))
_PIXEL_ART_BLOCKS = 32
_SHADOW_STRENGTH = 80
_FADED = 75
"""Opacity of a reflection, in percent."""
_MIRROR_FRAME = np.array((120, 82, 45), np.uint16)
_MIRROR_GLASS = np.array((205, 222, 232), np.uint16)

MIRROR = 0
"""Key of the mirror among the masks; ids of objects begin at 1."""


@dataclasses.dataclass(frozen=True)
class Rendering:
    """A scene as pixels."""

    image: np.ndarray
    """[size, size, 3] uint8 RGB."""
    masks: dict[int, np.ndarray]
    """Visible pixels, [size, size] bool, by object id; the mirror's are at `MIRROR`."""


def draw_scene(scene: Scene, size: int) -> Rendering:
    """Draw a scene and its masks, `size` pixels square; lower objects are in front, a mirror is behind all."""
    canvas = backgrounds.cut(scene.background, scene.background_seed, size).astype(np.uint16)
    masks: dict[int, np.ndarray] = {}
    if scene.mirror is not None:
        masks[MIRROR] = _draw_mirror(canvas, scene.mirror)
    for placed in sorted(scene.objects, key=lambda placed: (not placed.reflection, placed.y)):
        visible = _draw_object(canvas, placed)
        for mask in masks.values():
            mask &= ~visible
        masks[placed.id] = visible
    return Rendering(_with_effect(canvas.astype(np.uint8), scene.effect), masks)


def difference(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return the [H, W] bool mask of the pixels in which two [H, W, 3] pictures differ."""
    return (before != after).any(axis=-1)


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Return the box left, top, right, bottom of a mask in pixels, right and bottom exclusive; zeros if it is empty."""
    return Image.fromarray(mask).getbbox() or (0, 0, 0, 0)


def _draw_object(canvas: np.ndarray, placed: Placed) -> np.ndarray:
    """Draw one object and its shadow, in place; returns the object's [size, size] bool mask."""
    size = canvas.shape[0]
    height = max(4, round(placed.height * size / HEIGHT_STEPS))
    sprite = sprites.draw(placed.name, placed.color, height, placed.artwork)
    if placed.mirrored:
        sprite = sprite.mirrored()
    width = sprite.mask.shape[1]
    left, top = round(placed.x * size - width / 2), round(placed.y * size - height)
    if not placed.thing.flies and not placed.reflection:
        shadow = _shadow(max(3, round(width * 1.05)), max(2, round(width * 0.16)))
        shadow_left = left + (width - shadow.shape[1]) // 2
        _blend(canvas, None, shadow, shadow_left, top + height - shadow.shape[0] * 3 // 4)
    fade = _FADED if placed.reflection else 100
    target, part = _blend(canvas, sprite.rgb * fade // 100, sprite.alpha * fade // 100, left, top)
    mask = np.zeros((size, size), bool)
    mask[target] = sprite.mask[part]
    return mask


@functools.cache
def _shadow(width: int, height: int) -> np.ndarray:
    """Return the [height, width, 1] uint16 alpha of a soft ellipse."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    alpha = np.clip(1 - x**2 - y**2, 0, 1) * _SHADOW_STRENGTH
    return alpha.astype(np.uint16)[..., None]


def _blend(
    canvas: np.ndarray, rgb: np.ndarray | None, alpha: np.ndarray, left: int, top: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Blend premultiplied color (black if None) into the canvas, in place; returns the slices covered in both."""
    size, (height, width) = canvas.shape[0], alpha.shape[:2]
    x0, y0, x1, y1 = (min(max(edge, 0), size) for edge in (left, top, left + width, top + height))
    target = slice(y0, y1), slice(x0, x1)
    part = slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)
    canvas[target] = canvas[target] * (255 - alpha[part]) // 255
    if rgb is not None:
        canvas[target] += rgb[part]
    return target, part


def _draw_mirror(canvas: np.ndarray, mirror: Mirror) -> np.ndarray:
    """Draw a mirror, in place: a frame, and a pale flipped image of the background; returns its mask."""
    size = canvas.shape[0]
    left, top, right, bottom = (round(edge * size) for edge in mirror.box)
    frame = max(1, round(MIRROR_FRAME * size))
    mask = np.zeros((size, size), bool)
    mask[top:bottom, left:right] = True
    glass = slice(top + frame, bottom - frame), slice(left + frame, right - frame)
    reflected = (canvas[glass][:, ::-1] + 2 * _MIRROR_GLASS) // 3
    canvas[mask] = _MIRROR_FRAME
    canvas[glass] = reflected
    return mask


def _with_effect(image: np.ndarray, effect: str) -> np.ndarray:
    size = image.shape[0]
    match effect:
        case "":
            return image
        case "black and white":
            return np.repeat((image @ _GRAY)[..., None], 3, axis=-1).astype(np.uint8)
        case "sepia":
            return ((image @ _GRAY)[..., None] * _SEPIA).clip(0, 255).astype(np.uint8)
        case "night":
            return (image * _NIGHT).astype(np.uint8)
        case "pixel art":
            small = Image.fromarray(image).resize((_PIXEL_ART_BLOCKS, _PIXEL_ART_BLOCKS), Image.Resampling.BOX)
            return np.asarray(small.resize((size, size), Image.Resampling.NEAREST))
        case "blur":
            return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(size / 48)))
    raise ValueError(f"no effect is called {effect!r}")
