"""Picture files of an edit job: from painted pixels to a file's bytes, and masks."""

import io
import re

import numpy as np
from PIL import Image

from fireedit.jobs.editing.manifest import EDITED, Record
from fireedit.jobs.editing.sources import EditRow
from fireedit.platform import images, storage
from fireedit.platform.images import EncodedImage

SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
"""Suffix of the files of each format."""
QUALITY = 95
MAX_SIDE = 16_384


class PictureError(ValueError):
    """Size, mask or format that no edit can have."""


def format_of(path: str) -> str:
    """Return the format that a file's name asks for.

    Raises:
        PictureError: its suffix is none of a picture that is written.
    """
    name = path.partition("?")[0].lower()
    for file_format, suffix in [*SUFFIXES.items(), ("jpeg", ".jpeg")]:
        if name.endswith(suffix):
            return file_format
    raise PictureError(f"--out: found {path!r}; write a file that ends in {', '.join(SUFFIXES.values())}")


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


def finish_picture(painted: np.ndarray, source: bytes, size: str, side: int) -> np.ndarray:
    """Make the picture that a row is answered with of what was painted.

    Args:
        painted: uint8 RGB [H, W, 3].
        source: encoded picture that was edited.
        size: as `require_size`.
        side: pixels of the canvas.
    """
    wanted = (side, side) if size == "canvas" else size_of(size)
    return painted if isinstance(wanted, str) else images.resize(painted, *wanted)


def encode_picture(picture: np.ndarray, file_format: str) -> EncodedImage:
    """Encode the picture for a row, uint8 RGB [H, W, 3], as it is written or sent."""
    if file_format == "png":
        return images.encode_png(picture)
    if file_format == "jpeg":
        return images.encode_jpeg(picture, QUALITY)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "WEBP", quality=QUALITY)
    return EncodedImage(buffer.getvalue())


def write_row(row: EditRow, data: bytes, out: str, file_format: str, seconds: float, regions: int | None) -> Record:
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
    """
    opacity = images.decode_alpha(data)
    if opacity is not None:
        return 255 - opacity
    return np.asarray(Image.fromarray(images.decode(data)).convert("L"))


def encode_mask(mask: np.ndarray) -> EncodedImage:
    """Encode a mask, uint8 [H, W], as the service reads it: transparent where the picture may change."""
    return images.encode_png(np.dstack([np.zeros((*mask.shape, 3), np.uint8), 255 - mask]))
