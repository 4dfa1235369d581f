"""Label maps and masks: PNGs whose gray levels or palette indices are labels."""

import numpy as np
from PIL import Image

from fireedit.platform.images import ImageError, Picture


def decode_labels(data: bytes) -> np.ndarray:
    """Decode a label map or mask from a PNG, whatever its bit depth, palette or channels.

    Gray levels are the labels, in color channels and alpha too if a program added them. A palette of distinct grays
    stands for these, as an optimizer stores them; of any other palette the indices are the labels.

    Returns:
        [H, W] uint8, upright.
    Raises:
        ImageError: not a PNG, or damaged data, or pixels that are no labels: colored, transparent or above 255.
    """
    picture = Picture(data)
    if picture.format != "PNG":
        raise ImageError(f"found a {picture.format}; a label map is a PNG of gray levels or palette indices")
    image = picture.upright()
    if image.mode == "P":
        return _labels_of_palette(image)
    if image.mode.startswith("I"):
        labels = np.asarray(image).astype(np.uint32)
        labels = labels // 257 if (labels % 257 == 0).all() else labels  # 8 bits scaled to 16, or written as they are
        if labels.max(initial=0) > 255:
            raise ImageError(f"found labels up to {labels.max()}; a label map has values in [0, 255]")
        return labels.astype(np.uint8)
    channels = np.array(image.convert("L" if image.mode in ("1", "L") else "RGBA"))
    if channels.ndim == 2:
        return channels
    if (channels[..., :3] != channels[..., :1]).any() or (channels[..., 3] != 255).any():
        raise ImageError(f"found colors in a PNG of mode {image.mode}; a label map has gray levels or palette indices")
    return channels[..., 0].copy()


def _labels_of_palette(image: Image.Image) -> np.ndarray:
    indices, palette = np.array(image), np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    levels = palette[:, 0]
    is_gray = (palette == palette[:, :1]).all() and len(np.unique(levels)) == len(levels) > indices.max(initial=0)
    return levels[indices] if is_gray else indices
