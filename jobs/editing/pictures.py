"""Picture files of an edit job: from painted pixels to a file's bytes, and masks."""

import re

import numpy as np
from PIL import Image

from fireedit.jobs.editing.manifest import EDITED, Record
from fireedit.jobs.editing.sources import EditRow
from fireedit.platform import images, storage
from fireedit.platform.images import EncodedImage
from fireedit.platform.provenance import Provenance, xmp_packet
from fireedit.platform.restoration import Edit, canvas_size, restore

SUFFIXES: dict[images.Format, str] = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
"""Suffix of the files of each format."""
QUALITY = 95
MAX_SIDE = 16_384


class PictureError(ValueError):
    """Size, mask or format that no edit can have."""


def format_of(path: str) -> images.Format:
    """Return the format that a file's name asks for.

    Raises:
        PictureError: its suffix is none of a picture that is written.
    """
    if file_format := known_format(path):
        return file_format
    raise PictureError(f"--out: found {path!r}; write a file that ends in {', '.join(SUFFIXES.values())}")


def known_format(path: str) -> images.Format | None:
    """Return the format that a file's name asks for, if it does."""
    name = path.partition("?")[0].lower()
    return next((each for each, suffix in SUFFIXES.items() if name.endswith((suffix, f".{each}"))), None)


def require_size(text: str) -> str:
    """Return a size as it was written: `auto`, `canvas` or `WxH`.

    Raises:
        PictureError: it is another.
    """
    match = re.fullmatch(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", text)
    if text in ("auto", "canvas") or (match and max(map(int, match.groups())) <= MAX_SIDE):
        return text
    raise PictureError(
        f"--size: found {text!r}; write auto, canvas or WIDTHxHEIGHT of at most {MAX_SIDE} pixels a side"
    )


def size_of(text: str) -> str | tuple[int, int]:
    """Turn a size into the pipeline's argument: (width, height), or the word."""
    if "x" not in text:
        return text
    width, height = map(int, text.split("x"))
    return width, height


def ground_of(file_format: images.Format) -> images.Color | None:
    """Return the ground of transparent pictures: none, as they stay so, but white for a JPEG."""
    return images.WHITE if file_format == "jpeg" else None


def finish_picture(edit: Edit, source: bytes, size: str, ground: images.Color | None = None) -> np.ndarray:
    """Bring an edited canvas back to its source.

    Args:
        source: encoded picture that was edited.
        size: as `require_size`.
        ground: color under transparent pixels; None keeps them.
    Returns:
        uint8 [H, W, 3], or [H, W, 4] with transparency.
    """
    picture, wanted = images.Picture(source), size_of(size)
    if wanted == "canvas":
        wanted = canvas_size(picture.size, len(edit.canvas))
    return restore(picture, edit, None if isinstance(wanted, str) else wanted, ground=ground)


def scaled(painted: np.ndarray, source: bytes, size: str) -> np.ndarray:
    """Scale the picture that another system painted, uint8 [H, W, 3], from its size to the one asked for.

    Args:
        source: encoded picture that was edited.
        size: as `require_size`; `canvas` is the system's own.
    """
    wanted = size_of(size)
    if wanted == "canvas":
        return painted
    side = images.Picture(source).size if isinstance(wanted, str) else wanted
    if side == painted.shape[1::-1]:
        return painted
    return np.asarray(Image.fromarray(painted).resize(side, Image.Resampling.LANCZOS))


def encode_picture(picture: np.ndarray, file_format: images.Format, facts: Provenance) -> EncodedImage:
    """Encode a result, uint8 [H, W, 3] or [H, W, 4], which says that an AI edited it."""
    return images.encode(picture, file_format, QUALITY, xmp_packet(facts))


def write_row(
    row: EditRow, data: bytes, out: str, file_format: images.Format, seconds: float, regions: int | None
) -> Record:
    """Write the encoded picture of a row, unless it failed; returns its record."""
    record = {name: getattr(row, name) for name in ("row", "id", "source", "instruction", "seed")}
    if row.error:
        return record | {"error": row.error}
    file = f"{EDITED}/{row.id}{SUFFIXES[file_format]}"
    storage.write_bytes(storage.join(out, file), data)
    return record | {"file": file, "seconds": round(seconds, 3), "regions": regions}


def read_mask(data: bytes) -> np.ndarray:
    """Decode a mask: transparent parts may change, or white ones of a picture without transparency.

    Returns:
        uint8 [H, W], 255 where the picture may change.
    Raises:
        ImageError: the data is no picture, or its greatest level is 1.
    """
    mask = images.Picture(data)
    opacity = mask.alpha()
    return mask.mask() if opacity is None or (opacity == 255).all() else 255 - opacity


def encode_mask(mask: np.ndarray) -> EncodedImage:
    """Encode a mask, uint8 [H, W], as the service reads it: transparent where the picture may change."""
    return images.encode_png(np.dstack([np.zeros((*mask.shape, 3), np.uint8), 255 - mask]))
