"""Masks: requests to paint a masked object, and the masks of published edits as boxes.

Source: InstructDiffusion and SmartEdit turn COCO-Stuff, RefCOCO and gRefCOCO into edits by painting the object half
transparent; the wording here is new.
"""

import random
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from fireedit.platform import images
from fireedit.platform.data.corpora import rows

COLORS = {
    "red": (255, 0, 0),
    "purple": (128, 0, 128),
    "blue": (0, 0, 255),
    "green": (0, 128, 0),
    "yellow": (255, 255, 0),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "gray": (128, 128, 128),
}

REQUESTS = (
    "Cover {object} with {color} and keep everything else as it is.",
    "Tint {object} {color}; nothing else may change.",
    "Lay a {color} film over {object} only.",
    "Show me where {object} is by painting it {color}.",
    "Highlight {object} in {color}, leaving the other pixels alone.",
    "Put a {color} overlay on every pixel of {object}.",
    "Segment {object}: paint it {color} and touch nothing else.",
    "Shade the area of {object} in {color} without changing the rest.",
    "Find {object} and color it {color}, the rest stays the same.",
    "Use {color} to point out {object} in this picture.",
    "Which pixels belong to {object}? Mark them in {color}.",
)

KEEP_REQUESTS = ("Leave this picture as it is.", "Do not change anything here.", "Keep the picture unchanged.")
"""Requests for a picture without labels."""

HALF = 128
"""Darkest gray level of a mask: below it is noise that JPEG leaves in the black."""

Box: TypeAlias = tuple[float, float, float, float]
"""Left, top, right, bottom in [0, 1] of a picture's sides."""


def request(rng: random.Random, thing: str) -> tuple[str, str]:
    """Draw an instruction to paint `thing`, and the name of the color that it asks for."""
    color = rng.choice(list(COLORS))
    return rng.choice(REQUESTS).format(object=thing, color=color), color


def paint(image: np.ndarray, mask: np.ndarray, color: str) -> np.ndarray:
    """Blend the color by half into [H, W, 3] uint8 where the [H, W] bool mask is set; the rest stays equal."""
    painted = image.copy()
    painted[mask] = (image[mask].astype(np.uint16) + np.array(COLORS[color], np.uint16)) // 2
    return painted


def box(mask: np.ndarray) -> Box:
    """Bound the true part of an [H, W] bool mask, which must not be empty."""
    rows_set, columns_set = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    height, width = mask.shape
    left, right = int(columns_set[0]) / width, (int(columns_set[-1]) + 1) / width
    return left, int(rows_set[0]) / height, right, (int(rows_set[-1]) + 1) / height


def boxes(data: bytes | None, decode: Callable[[bytes], np.ndarray], name: str) -> tuple[Box, ...]:
    """Read the one box of a mask; none where there is no mask or an empty one: an edit is whole without it.

    Args:
        decode: makes an [H, W] bool mask of the bytes; `bright` or `erased`.
        name: of the mask's file or column, begins the error.
    Returns:
        Boxes in [0, 1] of the mask's own sides, so that the picture may have another size.
    Raises:
        BadRow: the mask is damaged.
    """
    if data is None:
        return ()
    try:
        mask = decode(data)
    except images.ImageError as error:
        raise rows.BadRow(f"{name}: {error}") from None
    return (box(mask),) if mask.any() else ()


def read_boxes(root: str, name: str, decode: Callable[[bytes], np.ndarray]) -> tuple[Box, ...]:
    """Read the boxes of the mask file ROOT/NAME; an empty name means no mask."""
    return boxes(rows.read_bytes(root, name) if name else None, decode, name)


def bright(data: bytes) -> np.ndarray:
    """Decode the bright part of a black and white mask, in any picture format, as [H, W] bool."""
    return images.decode(data).mean(axis=-1) >= HALF


def erased(data: bytes, source: bytes = b"") -> np.ndarray:
    """Decode the part of a picture that was erased to transparency or, failing that, to pure white, as [H, W] bool.

    Args:
        source: the picture itself, if at hand: its own white was not erased.
    """
    alpha = images.Picture(data).alpha()
    if alpha is not None and not alpha.all():
        return alpha == 0
    white = (images.decode(data) == 255).all(axis=-1)
    if source:
        height, width = white.shape
        white &= (images.resize(images.decode(source), width, height) != 255).any(axis=-1)
    return white
