"""Images: encoded bytes to uint8 RGB and back."""

import contextlib
import io
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NewType

import numpy as np
from PIL import Image, ImageCms, ImageFile
from PIL.ExifTags import Base
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import MAX_TEXT_CHUNK, MAX_TEXT_MEMORY, PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

EncodedImage = NewType("EncodedImage", bytes)
"""JPEG, PNG or WebP file that decodes."""
Pixels = NewType("Pixels", np.ndarray)
"""Decoded image, uint8 RGB [H, W, 3]."""

MAX_PIXELS = 64_000_000
"""Pixels of the largest picture that is decoded, more than any corpus has; such an image takes 192 MB."""

LARGE_PIXELS = 4_000_000
"""Pixels above which a picture's memory, four bytes each, is worth a thought: some 16 MB."""
_BAND_PIXELS = 1_000_000
_MAX_READS = 150_000
"""Reads of Pillow in one file, three for each chunk: enough for 50 MB in chunks of a kilobyte."""

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
_FROM_BELOW, _SIDEWAYS = (3, 4, 7, 8), (5, 6, 7, 8)
"""Orientations whose top row is stored last, and whose rows are stored as columns."""

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


class _WebPFile(WebPImageFile):
    """WebP picture whose decoder, with its two canvases, is gone before Pillow makes its own copy of the pixels."""

    def load_prepare(self) -> None:
        self._decoder = None
        super().load_prepare()


class _File(io.BytesIO):
    """File of bytes that ends the reading of millions of tiny chunks, or of junk byte by byte, which takes seconds."""

    reads = 0

    def read(self, size: int | None = -1) -> bytes:
        self.reads += 1
        if self.reads > _MAX_READS:
            raise OSError("too many chunks")
        return super().read(size)


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
    width, height = _upright(image, image.size)
    pixels = np.empty((height, width, 3), np.uint8)
    for top, band in _rgb_bands(image):
        pixels[top : top + band.height] = np.asarray(band)
    return Pixels(pixels)


def header(data: bytes, max_pixels: int = MAX_PIXELS) -> Header:
    """Read format and size of a picture without decoding it.

    Raises:
        ImageError: as `decode`, but for damaged pixels.
    """
    image = _open(data, max_pixels)
    return Header(str(image.format), image.size)


def decode_canvas(data: bytes, side: int, max_pixels: int = MAX_PIXELS) -> tuple[Pixels, tuple[int, int]]:
    """Decode a picture and scale it to a square, whatever its aspect, without a second copy of a large one's pixels.

    The result is that of `decode` and `resize`, but for pictures above LARGE_PIXELS. Of those, JPEGs are decoded at a
    half, a quarter or an eighth of their size, no side below three times the square's, so that values differ by less
    than one level on average; others are scaled rows first, which Pillow does for most shapes.

    Returns:
        [side, side, 3] uint8, sRGB, and width and height of the picture, upright.
    Raises:
        ImageError: as `decode`.
    """
    image = _open(data, max_pixels)
    size, square = image.size, (side, side)
    drafted = isinstance(image, JpegImageFile) and image.width * image.height > LARGE_PIXELS
    _, box = (image.draft("RGB", (3 * side, 3 * side)) if drafted else None) or (None, None)
    _load(image)
    if drafted:
        small = _turned(image.resize(square, Image.Resampling.BICUBIC, box), _orientation(image))
        return Pixels(np.asarray(_to_rgb(small, _to_srgb(image)))), _upright(image, size)
    width, height = _upright(image, size)
    if width * height > LARGE_PIXELS:
        width = side
    rows = Image.new("RGB", (width, height))
    for top, band in _rgb_bands(image):
        rows.paste(band.resize((width, band.height), Image.Resampling.BICUBIC), (0, top))
    return Pixels(np.asarray(rows.resize(square, Image.Resampling.BICUBIC))), _upright(image, size)


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
    return np.array(_turned(image, _orientation(image)).convert("RGBA").getchannel("A"))


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
    upright = _turned(image, _orientation(image))
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
            image = kind(_File(data))
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
    kept, at, chunks, inflated = [0], 8, 0, 0
    while at < len(png):
        end = at + 12 + int.from_bytes(png[at : at + 4], "big")
        if (kind := png[at + 4 : at + 8]) in (b"zTXt", b"iCCP", b"iTXt"):
            _, _, packed = png[at + 8 : end - 4].partition(b"\0")
            if kind == b"iTXt":
                packed = packed[1:].split(b"\0", 2)[-1]  # past flag, method, language and translated keyword
            inflated += (length := _inflated(packed.removeprefix(b"\0")))
            if length > MAX_TEXT_CHUNK:
                kept += [at, end]
        at, chunks = end, chunks + 1
        if chunks > _MAX_READS or inflated > MAX_TEXT_MEMORY:
            raise ImageError("found a PNG of too many chunks or too long texts; save it anew without them")
    if len(kept) == 1:
        return png
    return b"".join(png[start:end] for start, end in zip(kept[::2], [*kept[1::2], len(png)], strict=True))


def _inflated(packed: bytes) -> int:
    """Count the bytes of a compressed text, up to one more than Pillow takes."""
    try:
        return len(zlib.decompressobj().decompress(packed, MAX_TEXT_CHUNK + 1))
    except zlib.error:
        return 0


def _kind(data: bytes) -> type[ImageFile.ImageFile]:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImageFile
    if data.startswith(b"\xff\xd8\xff"):
        return JpegImageFile
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _WebPFile
    if data.startswith(b"version https://git-lfs"):
        raise ImageError("found a Git-LFS pointer; run git lfs pull and send the picture")
    found = f"{len(data):,} bytes that begin with {data[:12]!r}" if data else "no bytes"
    raise ImageError(f"found {found}; send a PNG, JPEG or WebP picture")


def _load(image: ImageFile.ImageFile) -> None:
    try:
        image.load()
    except _DAMAGE as error:
        raise ImageError(f"found a damaged {image.format} ({error}); send the whole file") from None


def _upright(image: ImageFile.ImageFile, size: tuple[int, int]) -> tuple[int, int]:
    return size[::-1] if _orientation(image) in _SIDEWAYS else size


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


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


def _rgb_bands(image: ImageFile.ImageFile) -> Iterator[tuple[int, Image.Image]]:
    """Yield a loaded picture upright in sRGB, a band of rows after the other, each with the index of its first row."""
    transform, orientation = _to_srgb(image), _orientation(image)
    width, height = _upright(image, image.size)
    rows = max(1, _BAND_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        first, last = (height - bottom, height - top) if orientation in _FROM_BELOW else (top, bottom)
        sideways = orientation in _SIDEWAYS
        band = image.crop((first, 0, last, width) if sideways else (0, first, width, last))
        yield top, _to_rgb(_turned(band, orientation), transform)


def _to_srgb(image: Image.Image) -> ImageCms.ImageCmsTransform | None:
    """Build the conversion of a picture's colors to sRGB, unless they are that, or its profile is damaged."""
    if (profile := _profile(image)) is None:
        return None
    with contextlib.suppress(ImageCms.PyCMSError):
        return ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), image.mode, image.mode)
    return None


def _to_rgb(image: Image.Image, to_srgb: ImageCms.ImageCmsTransform | None) -> Image.Image:
    if to_srgb is not None:
        image = to_srgb.apply(image)
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
