"""Bring an edited canvas back to its source: the source's size, its sharpness, its pixels where nothing was edited."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

from fireedit.platform.images import Color, Picture

Size = tuple[int, int]
"""Width and height, pixels."""
Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""
Area = tuple[int, int, int, int]
"""Part of the result: left, top, right, bottom, pixels."""
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
CONTRAST = (0.03 * 255) ** 2
"""SSIM's second constant, of 8-bit values: contrasts far below it count as none."""
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_BAND_PIXELS = 1_000_000


@dataclass(frozen=True)
class Edit:
    """Edit of a canvas, the square that the model sees a picture as."""

    canvas: np.ndarray
    """Source, uint8 RGB [S, S, 3]."""
    edited: np.ndarray
    """uint8 RGB [S, S, 3]."""
    changed: np.ndarray
    """Cells of the latents that the edit changed, bool [h, w]."""


def canvas_size(source: Size, side: int) -> Size:
    """Compute the size of a source, no larger than a canvas: its short side at most the canvas's."""
    scale = min(1.0, side / min(source))
    return max(1, round(source[0] * scale)), max(1, round(source[1] * scale))


def restore(
    source: Picture, edit: Edit, size: Size | None = None, mask: np.ndarray | None = None, ground: Color | None = None
) -> np.ndarray:
    """Apply an edit of the canvas to the source at its full size.

    The residual `edited - canvas` is enlarged and added to the source, so that what it leaves alone stays as sharp as
    the source. Where the edit replaced the structure, the source's fine detail goes with it, lest a removed object
    shows as a ghost; there the result is as sharp as the canvas. Cells that are not `changed` keep the source's pixels.

    Args:
        size: width and height of the result, which shows the center of a source of another aspect; None: the source's.
        mask: uint8 [H, W] of the source's size, 255 where the source may change, 0 where its pixels are kept.
        ground: color that transparent pixels are laid over; None keeps the source's transparency.
    Returns:
        uint8 [H, W, 3] sRGB, or [H, W, 4] if the source's transparency is kept.
    Raises:
        ImageError: the source is damaged.
    """
    size = size or source.size
    part = _center(source.size, size)
    left, top, right, bottom = _extent(edit.changed, part, size)
    layers = _Layers(edit, part, size)
    if mask is not None and size != source.size:
        mask = np.asarray(_resized(Image.fromarray(mask), size, part))
    result = np.empty((size[1], size[0], 4 if ground is None and source.has_alpha else 3), np.uint8)
    for start, band in _bands(source, size, part, ground):
        rows = slice(start, start + band.height)
        result[rows] = np.asarray(band)
        first, last = max(start, top), min(start + band.height, bottom)
        if first >= last or left >= right:
            continue
        area = result[first:last, left:right, :3]
        weight = layers.weight((left, first, right, last))
        if mask is not None:
            weight = weight * (mask[first:last, left:right, None] / np.float32(255))
        changed = weight[..., 0] > 0
        applied = layers.apply(area, weight, (left, first, right, last))
        area[changed] = applied[changed]
    return result


class _Layers:
    """Maps of an edit on the canvas, enlarged for one area of the result after the other."""

    def __init__(self, edit: Edit, part: Box, size: Size):
        self._part, self._size, self._changed = part, size, edit.changed.astype(np.float32)
        self._canvas, self._edited = edit.canvas.astype(np.float32), edit.edited.astype(np.float32)
        self._detail = _kept_structure(self._canvas @ LUMA, self._edited @ LUMA)

    def weight(self, area: Area) -> np.ndarray:
        """Compute the weight of the edit, [h, w, 1]: 1 in changed cells, else 0.

        A ramp between the two would show the outline of a removed object at the edge of its cells.
        """
        (left, top, right, bottom), (x0, y0, x1, y1), (width, height) = self._part, area, self._size
        columns = (left + (right - left) * (np.arange(x0, x1) + 0.5) / width) * self._changed.shape[1]
        rows = (top + (bottom - top) * (np.arange(y0, y1) + 0.5) / height) * self._changed.shape[0]
        return self._changed[np.ix_(rows.astype(int), columns.astype(int))][..., None]

    def apply(self, source: np.ndarray, weight: np.ndarray, area: Area) -> np.ndarray:
        """Apply the edit to an area of the source, uint8 [h, w, 3]."""
        detail = self._enlarged(self._detail, area, Image.Resampling.BILINEAR)
        edited = np.empty(source.shape, np.float32)
        for channel in range(3):
            before, after = (
                self._enlarged(each[..., channel], area, Image.Resampling.BICUBIC)
                for each in (self._canvas, self._edited)
            )
            edited[..., channel] = after + detail * (source[..., channel] - before)
        return np.clip(np.rint(source + weight * (edited - source)), 0, 255).astype(np.uint8)

    def _enlarged(self, values: np.ndarray, area: Area, how: Image.Resampling) -> np.ndarray:
        """Scale a float32 map of the whole source to an area; what lies around the area counts at its edges."""
        (height, width), (left, top, right, bottom), (x0, y0, x1, y1) = values.shape, self._part, area
        columns = [(left + (right - left) * x / self._size[0]) * width for x in (x0, x1)]
        rows = [(top + (bottom - top) * y / self._size[1]) * height for y in (y0, y1)]
        box = max(0.0, columns[0]), max(0.0, rows[0]), min(width, columns[1]), min(height, rows[1])
        return np.asarray(Image.fromarray(values).resize((x1 - x0, y1 - y0), how, box))


def _kept_structure(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Compute for each pixel of the canvas how far its structure is kept, [S, S] in [0, 1].

    Source: Wang et al., Image quality assessment (2004): SSIM's contrast and structure term, here in windows of 3 x 3
        pixels. Its square comes closer to scenes drawn at full size, with fewer outlines of removed objects.
    """
    x, y = _mean(before), _mean(after)
    covariance = _mean(before * after) - x * y
    variances = _mean(before * before) - x * x + _mean(after * after) - y * y
    similarity = (2 * covariance + CONTRAST) / (variances + CONTRAST)
    return np.clip(similarity, 0, 1).astype(np.float32) ** 2


def _mean(values: np.ndarray) -> np.ndarray:
    """Average [S, S] over windows of 3 x 3."""
    return sliding_window_view(np.pad(values, 1, "edge"), (3, 3)).mean(axis=(2, 3))


def _bands(source: Picture, size: Size, part: Box, ground: Color | None) -> Iterator[tuple[int, Image.Image]]:
    """Yield the source at a size, a band of rows after the other."""
    if size == source.size:
        yield from source.bands(ground)
        return
    whole = Image.fromarray(source.pixels(ground))
    scaled = _resized(whole, size, part)
    rows = max(1, _BAND_PIXELS // size[0])
    for top in range(0, size[1], rows):
        yield top, scaled.crop((0, top, size[0], min(top + rows, size[1])))


def _resized(image: Image.Image, size: Size, part: Box) -> Image.Image:
    box = part[0] * image.width, part[1] * image.height, part[2] * image.width, part[3] * image.height
    return image.resize(size, Image.Resampling.BICUBIC, box)


def _center(source: Size, size: Size) -> Box:
    """Find the largest centered part of a source that has another size's aspect, in [0, 1]."""
    if canvas_size(source, min(size)) == size:  # the same aspect, but for rounding
        return WHOLE
    aspect = (size[0] / size[1]) / (source[0] / source[1])
    width, height = min(1.0, aspect), min(1.0, 1 / aspect)
    return (1 - width) / 2, (1 - height) / 2, (1 + width) / 2, (1 + height) / 2


def _extent(changed: np.ndarray, part: Box, size: Size) -> tuple[int, int, int, int]:
    """Find the box of the result, in pixels, outside of which no cell is changed."""
    edges = []
    for axis in (1, 0):
        cells = np.flatnonzero(changed.any(axis=1 - axis))
        start, end = (cells[0], cells[-1] + 1) if len(cells) else (0, 0)
        low, high = part[1 - axis], part[3 - axis]
        scale = size[1 - axis] / (high - low)
        first, last = ((edge / changed.shape[axis] - low) * scale for edge in (start, end))
        edges.append((max(0, int(np.floor(first))), min(size[1 - axis], int(np.ceil(last)))))
    (left, right), (top, bottom) = edges
    return left, top, right, bottom
