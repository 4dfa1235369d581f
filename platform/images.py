"""Images: files, PIL images and arrays to uint8 sRGB and back. The one place where a picture is decoded."""

import functools
import io
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NewType

import numpy as np
from PIL import Image, ImageCms, ImageFile
from PIL.ExifTags import Base
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import MAX_TEXT_CHUNK, MAX_TEXT_MEMORY, PngImageFile, PngInfo
from PIL.WebPImagePlugin import WebPImageFile

from fireedit.platform.colors import is_plain_srgb, srgb_converter

EncodedImage = NewType("EncodedImage", bytes)
"""JPEG, PNG or WebP file that decodes."""
Pixels = NewType("Pixels", np.ndarray)
"""Decoded image, uint8 RGB [H, W, 3]."""
Source = bytes | Image.Image | np.ndarray
"""Encoded file, still picture that `Image.open` gives, bool [H, W], or uint8 [H, W], [H, W, 3] or [H, W, 4]."""
Format = Literal["png", "jpeg", "webp"]
Color = tuple[int, int, int]

GRAY: Color = (128, 128, 128)
"""Neutral ground over which a model sees transparent pictures."""
WHITE: Color = (255, 255, 255)

MAX_PIXELS = 64_000_000
"""Pixels of the largest picture that is decoded, more than any corpus has; such an image takes 192 MB."""

LARGE_PIXELS = 4_000_000
"""Pixels above which a picture's memory, four bytes each, is worth a thought: some 16 MB."""
_BAND_PIXELS = 1_000_000
_LAYERED = ("MPO", "PSD")
"""Formats whose further frames are previews or layers of the first."""
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

_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
"""PNG chunks of text, and the profile, which Pillow reads like one."""

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
    """Width and height, upright."""


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


class Picture:
    """Opened picture, whose pixels are decoded when they are asked for: upright, and sRGB however they are stored."""

    def __init__(self, source: Source, max_pixels: int = MAX_PIXELS, draft: int | None = None):
        """
        Args:
            max_pixels: largest height x width that may be decoded; checked on the header, before any pixel is.
            draft: decodes a JPEG file at a fraction of its size, several times faster, with no side below this.
        Raises:
            ImageError: another format, an animation, no or too many pixels, or a damaged header.
        """
        self._image = image = _opened(source)
        self.format = str(image.format)
        if 0 in image.size:
            raise ImageError(f"found {image.width} x {image.height} pixels; send at least 1 x 1")
        if image.width * image.height > max_pixels:
            raise ImageError(f"found {image.width} x {image.height} pixels; send at most {max_pixels:,} in all")
        if draft is not None and isinstance(image, JpegImageFile):
            image.draft("RGB", (draft, draft))
        self._orientation = _orientation(image)
        width, height = image.size
        self.size = (height, width) if self._orientation in _SIDEWAYS else (width, height)
        """Width and height, upright."""

    @property
    def is_large(self) -> bool:
        """Truth of a picture whose memory is worth a thought."""
        return self.size[0] * self.size[1] > LARGE_PIXELS

    @property
    def has_alpha(self) -> bool:
        return self._image.has_transparency_data

    def bands(self, ground: Color | None = GRAY) -> Iterator[tuple[int, Image.Image]]:
        """Yield the picture a band of rows after the other, each with the index of its first row.

        Args:
            ground: color that transparent pixels are laid over; None yields RGBA for a picture with transparency.
        Raises:
            ImageError: damaged data.
        """
        convert = srgb_converter(self.loaded())
        width, height = self.size
        rows = max(1, _BAND_PIXELS // width)
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            first, last = (height - bottom, height - top) if self._orientation in _FROM_BELOW else (top, bottom)
            sideways = self._orientation in _SIDEWAYS
            band = self._image.crop((first, 0, last, width) if sideways else (0, first, width, last))
            band = convert(_turned(band, self._orientation))
            yield top, band if ground is None or band.mode == "RGB" else _laid_over(ground, band)

    def pixels(self, ground: Color | None = GRAY) -> np.ndarray:
        """Decode all pixels to uint8 [H, W, 3], or [H, W, 4] with transparency and no ground."""
        width, height = self.size
        pixels = np.empty((height, width, 4 if ground is None and self.has_alpha else 3), np.uint8)
        for top, band in self.bands(ground):
            pixels[top : top + band.height] = np.asarray(band)
        return pixels

    def canvas(self, side: int, ground: Color = GRAY) -> np.ndarray:
        """Scale the picture to a square, uint8 [side, side, 3], whatever its aspect.

        A large picture is scaled rows first, as Pillow does for most shapes, without a second copy of its pixels.
        """
        width, height = self.size
        if self.is_large:
            width = min(width, side)
        rows = Image.new("RGB", (width, height))
        for top, band in self.bands(ground):
            rows.paste(band.resize((width, band.height), Image.Resampling.BICUBIC), (0, top))
        return np.asarray(rows.resize((side, side), Image.Resampling.BICUBIC))

    def alpha(self) -> np.ndarray | None:
        """Decode the opacity, uint8 [H, W], 0 where it is transparent; None for a picture without transparency."""
        return self.pixels(None)[..., 3] if self.has_alpha else None

    @property
    def is_plain_jpeg(self) -> bool:
        return self.format == "JPEG" and self._orientation not in _TURNS and is_plain_srgb(self._image)

    def loaded(self) -> Image.Image:
        """Decode the values as stored, not turned upright.

        Raises:
            ImageError: damaged data, or gray levels of more than 16 bits.
        """
        try:
            self._image.load()
        except _DAMAGE as error:
            raise ImageError(f"found a damaged {self.format} ({error}); send the whole file") from None
        if self._image.mode == "I" and not 0 <= np.min(levels := self._image.getextrema()) <= np.max(levels) < 2**16:
            raise ImageError(f"found gray levels from {levels[0]} to {levels[1]}; send levels from 0 to 65535")
        return self._image

    def upright(self) -> Image.Image:
        """Decode the values as stored, upright."""
        return _turned(self.loaded(), self._orientation)

    def mask(self) -> np.ndarray:
        """Decode the picture as a mask, uint8 [H, W], 255 where it is white.

        Raises:
            ImageError: damaged data, or a mask that is almost black all over, as one that holds 1 for white.
        """
        levels, stored = self.pixels()[..., 0], self.loaded()
        is_gray = stored.mode.startswith("I")  # of 16 bits, which may all be 0 when they are scaled to 8
        if levels.max() == 1 or (is_gray and levels.max() == 0 and np.max(stored.getextrema()) > 0):
            raise ImageError("found a mask without any level above 1 of 255; send 255, or bool, where it may change")
        return levels


def decode(source: Source, max_pixels: int = MAX_PIXELS, draft: int | None = None) -> Pixels:
    """Decode a picture, upright, transparency laid over gray, to [H, W, 3] uint8 sRGB; arguments as of `Picture`.

    Raises:
        ImageError: another format, an animation, too many pixels, or damaged data.
    """
    return Pixels(Picture(source, max_pixels, draft).pixels())


def header(data: bytes, max_pixels: int = MAX_PIXELS) -> Header:
    """Read format and size of a picture without decoding it.

    Raises:
        ImageError: as `decode`, but for damaged pixels.
    """
    picture = Picture(data, max_pixels)
    return Header(picture.format, picture.size)


def plain_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height of an upright sRGB JPEG; None for every other picture."""
    picture = Picture(data)
    return picture.size if picture.is_plain_jpeg else None


def encode(image: np.ndarray, file_format: Format = "png", quality: int = 95, xmp: bytes = b"") -> EncodedImage:
    """Encode a result, uint8 [H, W, 3] or [H, W, 4], marked as sRGB.

    Args:
        quality: 0 to 100, of JPEG, with colors at full resolution, and of WebP, which is lossless at 100.
        xmp: XMP packet that the file carries.
    """
    options: dict[Format, dict[str, Any]] = {
        "png": {"compress_level": 4},
        "jpeg": {"quality": quality, "subsampling": 0},
        "webp": {"quality": quality, "lossless": quality == 100, "exact": True},
    }
    marks: dict[str, Any] = {"icc_profile": _srgb_profile()}
    if xmp and file_format == "png":
        marks["pnginfo"] = PngInfo()
        marks["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode())
    elif xmp:
        marks["xmp"] = xmp
    return _encoded(image, file_format, **options[file_format], **marks)


def encode_png(image: np.ndarray) -> EncodedImage:
    """Encode losslessly [H, W, 3] RGB, [H, W, 4] RGBA, or an [H, W] label map or mask, uint8."""
    return _encoded(image, "png", compress_level=4)


def encode_jpeg(image: np.ndarray, quality: int = 95) -> EncodedImage:
    """Encode [H, W, 3] uint8 RGB in few bytes, colors at full resolution."""
    return _encoded(image, "jpeg", quality=quality, subsampling=0)


def resize(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Scale [H, W, 3] or [H, W] uint8 to exactly this size, antialiased; the aspect is not kept (SmartEdit)."""
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def _opened(source: Source) -> Image.Image:
    """Open a picture: a file's header is read only, by its format's own class, so that Pillow tries no other."""
    if isinstance(source, Image.Image):
        if source.mode == "F":
            raise ImageError("found a picture of mode F, levels without a range; send uint8 levels, 255 for white")
        return _still(source, str(source.format))
    if isinstance(source, np.ndarray):
        is_gray, is_color = source.ndim == 2, source.ndim == 3 and source.shape[2] in (3, 4)
        if (source.dtype != np.uint8 or not (is_gray or is_color)) and (source.dtype != np.bool_ or not is_gray):
            found = f"an array of {source.dtype} {list(source.shape)}"
            raise ImageError(f"found {found}; send uint8 [H, W, 3], [H, W, 4] or [H, W]")
        return Image.fromarray(source)
    kind = _kind(source)
    if kind is PngImageFile:
        source = _without_long_texts(source)
    try:
        with _reading_headers, warnings.catch_warnings():  # the filters are the process's: one thread at a time
            warnings.simplefilter("ignore")
            image = kind(_File(source))
    except _DAMAGE as error:
        raise ImageError(f"found a damaged {kind.format} header ({error}); send the whole file") from None
    _still(image, str(kind.format))
    if kind is PngImageFile:
        _scale_transparency(image, bits=source[24])
    return image


def _still(image: Image.Image, file_format: str) -> Image.Image:
    """Return the picture unless it is animated, as far as its file is open to count the frames."""
    try:
        frames = 1 if file_format in _LAYERED else getattr(image, "n_frames", 1)
    except ValueError:
        return image
    if frames > 1:
        raise ImageError(f"found an animated {file_format}; send one still picture")
    return image


def _scale_transparency(image: Image.Image, bits: int) -> None:
    """Scale a PNG's transparent level or color to 8 bits, as Pillow scales its pixels."""
    clear = image.info.get("transparency")
    if image.mode == "L" and isinstance(clear, int) and bits in (2, 4):
        image.info["transparency"] = clear * 255 // (2**bits - 1)
    elif image.mode == "RGB" and isinstance(clear, tuple) and bits == 16:
        image.info["transparency"] = tuple(level >> 8 for level in clear)


def _without_long_texts(png: bytes) -> bytes:
    """Drop texts and profiles that Pillow refuses for their length, so that they spoil no pixels and cost no memory."""
    kept, at, chunks, inflated = [0], 8, 0, 0
    while at < len(png):
        end = at + 12 + int.from_bytes(png[at : at + 4], "big")
        if (kind := png[at + 4 : at + 8]) in _TEXTS:
            length = _inflated(kind, png[at + 8 : end - 4]) if inflated <= MAX_TEXT_MEMORY else 0
            inflated += length
            if length > MAX_TEXT_CHUNK or inflated > MAX_TEXT_MEMORY:
                kept += [at, end]
        at, chunks = end, chunks + 1
        if chunks > _MAX_READS:
            raise ImageError("found a PNG of too many chunks; save it anew")
    if len(kept) == 1:
        return png
    return b"".join(png[start:end] for start, end in zip(kept[::2], [*kept[1::2], len(png)], strict=True))


def _inflated(kind: bytes, content: bytes) -> int:
    """Count the bytes of a text, up to one more than Pillow takes; those over the limit cost no memory."""
    if kind == b"tEXt":
        return len(content)
    _, _, packed = content.partition(b"\0")
    if kind == b"iTXt":
        if packed[:1] != b"\1":
            return len(content)
        packed = packed[2:].split(b"\0", 2)[-1]  # past flag, method, language and translated keyword
    try:
        return len(zlib.decompressobj().decompress(packed.removeprefix(b"\0"), MAX_TEXT_CHUNK + 1))
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


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def _orientation(image: Image.Image) -> int:
    try:
        with _reading_headers, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return image.getexif().get(Base.Orientation, 1)
    except _DAMAGE:  # broken EXIF does not spoil the pixels
        return 1


def _laid_over(ground: Color, rgba: Image.Image) -> Image.Image:
    return Image.alpha_composite(Image.new("RGBA", rgba.size, (*ground, 255)), rgba).convert("RGB")


@functools.cache
def _srgb_profile() -> bytes:
    """Build the profile that is written; with no date, so that equal pictures are equal files."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[24:36] = bytes(12)
    return bytes(profile)


def _encoded(image: np.ndarray, file_format: str, **how: Any) -> EncodedImage:
    assert image.dtype == np.uint8 and image.ndim in (2, 3), (image.dtype, image.shape)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, file_format, **how)
    return EncodedImage(buffer.getvalue())
