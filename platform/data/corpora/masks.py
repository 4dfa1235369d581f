"""The masks that corpora hand out with their edits, as boxes: where in the picture an instruction works."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from fireedit.platform import images
from fireedit.platform.data.corpora import rows, segmentation

HALF = 128
"""A mask that was stored as JPEG is never quite black: what is darker than this is none of it."""

Box: TypeAlias = tuple[float, float, float, float]


def boxes(data: bytes | None, decode: Callable[[bytes], np.ndarray]) -> tuple[Box, ...]:
    """The one box of a mask file; none if it is missing, damaged or empty, for an edit is whole without its mask.

    Args:
        decode: makes an [H, W] bool mask of the bytes; `bright` or `erased`.
    Returns:
        xyxy in [0, 1] of the mask's sides, so that the picture may have another size.
    """
    try:
        mask = decode(data or b"")
    except images.ImageError:
        return ()
    return (segmentation.box(mask),) if mask.any() else ()


def read_boxes(root: str, name: str, decode: Callable[[bytes], np.ndarray]) -> tuple[Box, ...]:
    """As `boxes`, of the file ROOT/NAME; an empty name means no mask."""
    try:
        return boxes(rows.read_bytes(root, name) if name else None, decode)
    except rows.BadRow:
        return ()


def bright(data: bytes) -> np.ndarray:
    """[H, W] bool: the bright part of a black and white mask, in any picture format."""
    return images.decode(data).mean(axis=-1) >= HALF


def erased(data: bytes, source: bytes = b"") -> np.ndarray:
    """[H, W] bool: what was erased of a picture to mark it, to transparency or, failing that, to pure white.

    Args:
        source: the picture itself, if at hand: what is white there was not erased to white.
    """
    alpha = images.decode_alpha(data)
    if alpha is not None and not alpha.all():
        return alpha == 0
    white = (images.decode(data) == 255).all(axis=-1)
    if source:
        height, width = white.shape
        white &= (images.resize(images.decode(source), width, height) != 255).any(axis=-1)
    return white
