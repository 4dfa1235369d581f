"""Images: encoded bytes to uint8 RGB and back."""

import contextlib
import io
import struct
import threading
import warnings
import zlib
from dataclasses import dataclass
from typing import NewType

import numpy as np
from PIL import Image, ImageCms, ImageFile
from PIL.ExifTags import Base
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import MAX_TEXT_CHUNK, PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

EncodedImage = NewType("EncodedImage", bytes)
"""JPEG, PNG or WebP file that decodes."""
Pixels = NewType("Pixels", np.ndarray)
"""Decoded image, uint8 RGB [H, W, 3]."""

MAX_PIXELS = 64_000_000
"""Pixels of the largest picture that is decoded, more than any corpus has; such an image takes 192 MB."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Transpose that turns a picture upright, by EXIF orientation."""

_BOMB = Image.DecompressionBombError
_DAMAGE = (SyntaxError, OSError, ValueError, EOFError, TypeError, LookupError, struct.error, _BOMB)
"""Errors that Pillow was seen to raise on damaged bytes."""

_reading_headers = threading.Lock()


@dataclass(frozen=True)
class Header:
    """Description of a picture that was not decoded."""

    format: str
    """PNG, JPEG or WEBP."""
    size: tuple[int, int]
    """Width and height as stored; a turn by EXIF may exchange them."""


class ImageError(ValueError):
    """Bytes that are no picture of a supported format; the message says what was found and what to send."""


def decode(data: bytes, max_pixels: int = MAX_PIXELS, draft: int | None = None) -> Pixels:
    """Decode a PNG, JPEG or WebP picture, upright, transparency laid over white.

    Args:
        max_pixels: largest height x width that may be decoded; checked on the header, before any pixel is.
        draft: decodes a JPEG at a fraction of its size, several times faster, with no side below this.
    Returns:
        [H, W, 3] uint8, sRGB.
    Raises:
        ImageError: another format, an animation, too many pixels, or damaged data.
    """
    image = _open(data, max_pixels)
    if draft is not None and isinstance(image, JpegImageFile):
        image.draft("RGB", (draft, draft))
    _load(image)
    return Pixels(np.array(_to_rgb(_upright(image))))


def header(data: bytes, max_pixels: int = MAX_PIXELS) -> Header:
    """Read format and size of a picture without decoding it.

    Raises:
        ImageError: as `decode`, but for damaged pixels.
    """
    image = _open(data, max_pixels)
    return Header(str(image.format), image.size)


def decode_canvas(data: bytes, side: int, max_pixels: int = MAX_PIXELS) -> tuple[Pixels, tuple[int, int]]:
    """Decode a picture to a square, whatever its aspect.

    Returns:
        [side, side, 3] uint8, sRGB, and width and height of the picture, upright.
    Raises:
        ImageError: as `decode`.
    """
    pixels = decode(data, max_pixels)
    height, width = pixels.shape[:2]
    return Pixels(resize(pixels, side, side)), (width, height)


def decode_alpha(data: bytes) -> np.ndarray | None:
    """Decode the opacity of a picture, upright like its pixels.

    Returns:
        [H, W] uint8, 0 where it is transparent; None for a picture without transparency.
    Raises:
        ImageError: as `decode`.
    """
    image = _open(data)
    _load(image)
    if image.mode.startswith("I") or not image.has_transparency_data:  # `decode` ignores that of 16-bit gray too
        return None
    return np.array(_upright(image).convert("RGBA").getchannel("A"))


def decode_labels(data: bytes) -> np.ndarray:
    """Decode a label map or mask from a PNG, whatever its bit depth, palette or channels.

    Gray levels are the labels, in color channels and alpha too if a program added them. A palette of distinct grays
    stands for these, as an optimizer stores them; of any other palette the indices are the labels.

    Returns:
        [H, W] uint8, upright.
    Raises:
        ImageError: not a PNG, or damaged data, or pixels that are no labels: colored, transparent or above 255.
    """
    image = _open(data)
    if not isinstance(image, PngImageFile):
        raise ImageError(f"found a {image.format}; a label map is a PNG of gray levels or palette indices")
    _load(image)
    upright = _upright(image)
    if image.mode == "P":
        return _labels_of_palette(upright)
    if image.mode.startswith("I"):
        labels = np.asarray(upright).astype(np.uint32)
        labels = labels // 257 if (labels % 257 == 0).all() else labels  # 8 bits scaled to 16, or written as they are
        if labels.max(initial=0) > 255:
            raise ImageError(f"found labels up to {labels.max()}; a label map has values in [0, 255]")
        return labels.astype(np.uint8)
    channels = np.array(upright.convert("L" if image.mode in ("1", "L") else "RGBA"))
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


def plain_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height of an upright sRGB JPEG; None for every other picture."""
    image = _open(data)
    plain = isinstance(image, JpegImageFile) and image.mode == "RGB" and _orientation(image) not in _TURNS
    return image.size if plain and _profile(image) is None else None


def encode_png(image: np.ndarray) -> EncodedImage:
    """Encode losslessly [H, W, 3] RGB, [H, W, 4] RGBA, or an [H, W] label map or mask, uint8."""
    return _encode(image, "PNG", compress_level=4)


def encode_jpeg(image: np.ndarray, quality: int = 95) -> EncodedImage:
    """Encode [H, W, 3] uint8 RGB in few bytes, colors at full resolution."""
    return _encode(image, "JPEG", quality=quality, subsampling=0)


def resize(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Scale [H, W, 3] or [H, W] uint8 to exactly this size, antialiased; the aspect is not kept (SmartEdit)."""
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def _open(data: bytes, max_pixels: int = MAX_PIXELS) -> ImageFile.ImageFile:
    """Read the header only; the format's own class is called, so that Pillow tries no other and warns of no size."""
    kind = _kind(data)
    if kind is PngImageFile:
        data = _without_long_texts(data)
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


def _without_long_texts(png: bytes) -> bytes:
    """Drop compressed texts and profiles that Pillow refuses for their length, so that they spoil no pixels."""
    kept, at = [png[:8]], 8
    while at < len(png):
        end = at + 12 + int.from_bytes(png[at : at + 4], "big")
        kind, (_, _, packed) = png[at + 4 : at + 8], png[at + 8 : end - 4].partition(b"\0")
        if kind == b"iTXt":
            packed = packed[1:].split(b"\0", 2)[-1]  # past flag, method, language and translated keyword
        if kind not in (b"zTXt", b"iCCP", b"iTXt") or not _is_long(packed.removeprefix(b"\0")):
            kept.append(png[at:end])
        at = end
    return b"".join(kept)


def _is_long(packed: bytes) -> bool:
    try:
        return len(zlib.decompressobj().decompress(packed, MAX_TEXT_CHUNK + 1)) > MAX_TEXT_CHUNK
    except zlib.error:
        return False


def _kind(data: bytes) -> type[ImageFile.ImageFile]:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImageFile
    if data.startswith(b"\xff\xd8\xff"):
        return JpegImageFile
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return WebPImageFile
    if data.startswith(b"version https://git-lfs"):
        raise ImageError("found a Git-LFS pointer; run git lfs pull and send the picture")
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


def _profile(image: Image.Image) -> ImageCms.ImageCmsProfile | None:
    """Return the color profile of an RGB picture, unless it is sRGB or cannot be read."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        rgb = profile.profile.xcolor_space.strip() == "RGB" and image.mode in ("RGB", "RGBA")
        return profile if rgb and "srgb" not in (profile.profile.profile_description or "").lower() else None
    except (KeyError, TypeError, OSError, ImageCms.PyCMSError):
        return None


def _to_rgb(image: Image.Image) -> Image.Image:
    if profile := _profile(image):
        with contextlib.suppress(ImageCms.PyCMSError):  # a damaged profile does not spoil the pixels
            srgb = ImageCms.createProfile("sRGB")
            image = ImageCms.profileToProfile(image, profile, srgb, outputMode=image.mode) or image
    if image.mode.startswith("I"):  # 16-bit gray; Pillow would clip it at 255
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
