"""Images: encoded bytes to uint8 RGB and back."""

import io
import struct
import threading
import warnings
from typing import NewType

import numpy as np
from PIL import Image, ImageFile
from PIL.ExifTags import Base
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

EncodedImage = NewType("EncodedImage", bytes)
"""JPEG, PNG or WebP file that decodes."""
Pixels = NewType("Pixels", np.ndarray)
"""Decoded image, uint8 RGB [H, W, 3]."""

MAX_PIXELS = 64_000_000
"""More than any corpus holds; a decoded image of this size takes 192 MB."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what turns the picture upright."""

_DAMAGE = (
    SyntaxError,
    OSError,
    ValueError,
    EOFError,
    TypeError,
    LookupError,
    struct.error,
    Image.DecompressionBombError,
)
"""What Pillow was seen to raise on damaged bytes."""

_reading_headers = threading.Lock()


class ImageError(ValueError):
    """Bytes that are no picture we take; the message says what was found and what to send."""


def decode(data: bytes, max_pixels: int = MAX_PIXELS, draft: int | None = None) -> Pixels:
    """Decode a PNG, JPEG or WebP picture, upright, transparency laid over white.

    Args:
        max_pixels: the most that may be decoded; checked on the header, before any pixel is.
        draft: lets a JPEG decode several times cheaper at a fraction of its size, with no side below this.
    Returns:
        [H, W, 3] uint8 RGB.
    Raises:
        ImageError: another format, an animation, too many pixels, or damaged data.
    """
    image = _open(data, max_pixels)
    if draft is not None and isinstance(image, JpegImageFile):
        image.draft("RGB", (draft, draft))
    _load(image)
    return Pixels(np.array(_to_rgb(_upright(image))))


def decode_alpha(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray | None:
    """How opaque a picture is, upright like its pixels.

    Returns:
        [H, W] uint8, 0 where one sees through; None for a picture without transparency.
    Raises:
        ImageError: as `decode`.
    """
    image = _open(data, max_pixels)
    _load(image)
    if image.mode.startswith("I") or not image.has_transparency_data:  # of 16-bit grey, `decode` keeps none either
        return None
    return np.array(_upright(image).convert("RGBA").getchannel("A"))


def decode_labels(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode a single-channel PNG as the numbers it stores, for label maps and masks.

    Returns:
        [H, W] uint8; palette indices where the PNG has a palette.
    Raises:
        ImageError: not a PNG with one 8-bit channel, or damaged data.
    """
    image = _open(data, max_pixels)
    if not isinstance(image, PngImageFile) or image.mode not in ("1", "L", "P"):
        raise ImageError(f"found a {image.format} of mode {image.mode}; a label map is a PNG with one 8-bit channel")
    _load(image)
    return np.array(image, dtype=np.uint8)


def plain_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of an upright colour JPEG; None for every other picture."""
    image = _open(data, MAX_PIXELS)
    plain = isinstance(image, JpegImageFile) and image.mode == "RGB" and _orientation(image) not in _TURNS
    return image.size if plain else None


def encode_png(image: np.ndarray) -> EncodedImage:
    """Lossless bytes of [H, W, 3] RGB, [H, W, 4] RGBA, or an [H, W] label map or mask, uint8."""
    return _encode(image, "PNG", compress_level=4)


def encode_jpeg(image: np.ndarray, quality: int = 95) -> EncodedImage:
    """Small bytes of [H, W, 3] uint8 RGB, colours at full resolution."""
    return _encode(image, "JPEG", quality=quality, subsampling=0)


def resize(
    image: np.ndarray, width: int, height: int, resample: Image.Resampling = Image.Resampling.BICUBIC
) -> np.ndarray:
    """Scale [H, W, 3] or [H, W] uint8 to exactly this size, antialiased; the aspect is not kept (SmartEdit)."""
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), resample))


def _open(data: bytes, max_pixels: int) -> ImageFile.ImageFile:
    """Read the header only; the format's own class is called, so that Pillow tries no other and warns of no size."""
    kind = _kind(data)
    try:
        with _reading_headers, warnings.catch_warnings():  # the filters are the process's: one thread at a time
            warnings.simplefilter("ignore")
            image = kind(io.BytesIO(data))
    except _DAMAGE as error:
        raise ImageError(f"found a damaged {kind.format} header ({error}); send the whole file") from None
    width, height = image.size
    if getattr(image, "n_frames", 1) > 1:
        raise ImageError(f"found an animated {kind.format}; send one still picture")
    if width * height > max_pixels:
        raise ImageError(f"found {width} x {height} pixels; send at most {max_pixels:,} in all")
    return image


def _kind(data: bytes) -> type[ImageFile.ImageFile]:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImageFile
    if data.startswith(b"\xff\xd8\xff"):
        return JpegImageFile
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return WebPImageFile
    found = f"{len(data):,} bytes that begin with {data[:12]!r}" if data else "no bytes"
    raise ImageError(f"found {found}; send a PNG, JPEG or WebP picture")


def _load(image: ImageFile.ImageFile) -> None:
    try:
        image.load()
    except _DAMAGE as error:
        raise ImageError(f"found a damaged {image.format} ({error}); send the whole file") from None


def _upright(image: ImageFile.ImageFile) -> Image.Image:
    turn = _TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _orientation(image: ImageFile.ImageFile) -> int:
    try:
        with _reading_headers, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return image.getexif().get(Base.Orientation, 1)
    except _DAMAGE:  # broken EXIF does not spoil the pixels
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey; Pillow would clip it at 255
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")


def _encode(image: np.ndarray, file_format: str, **how: int) -> EncodedImage:
    assert image.dtype == np.uint8 and image.ndim in (2, 3), (image.dtype, image.shape)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, file_format, **how)
    return EncodedImage(buffer.getvalue())
