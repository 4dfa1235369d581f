"""Pictures by the conventions of other programs, each with the pixels that a person sees."""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms, ImageOps

D50 = (0.9642, 1.0, 0.8249)
P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
ADOBE = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
SRGB_CURVE = (3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
"""Type of an ICC parametric curve, and its parameters."""
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column and row of each pass of an interlaced PNG, and the steps between its columns and rows."""
SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Convention:
    """Picture, and its pixels as another way of decoding gives them."""

    name: str
    file: bytes
    pixels: np.ndarray
    """uint8 sRGB [H, W, 3], or [H, W, 4] with transparency, upright."""


def conventions() -> Iterator[Convention]:
    """Make the pictures."""
    for group in (_orientations, _profiles, _gammas, _depths, _transparencies, _jpegs, _texts, _shapes):
        for name, file, pixels in group():
            yield Convention(name, file, np.ascontiguousarray(pixels))


def scene(height: int = 96, width: int = 128) -> np.ndarray:
    """Draw a picture whose corners differ, with fine detail."""
    y, x = np.mgrid[0:height, 0:width]
    fine = 24 * ((x // 3 + y // 3) % 2)
    red, green = x * 200 // max(1, width), y * 200 // max(1, height)
    disk = (x - 0.6 * width) ** 2 + (y - 0.4 * height) ** 2 < (0.2 * min(height, width)) ** 2
    return np.stack([red + fine, green + fine, np.where(disk, 230, 60)], axis=-1).astype(np.uint8)


def clear_corner(height: int = 96, width: int = 128) -> np.ndarray:
    """Draw an opacity: nothing in a corner, all in the rest, and a ramp between."""
    y, x = np.mgrid[0:height, 0:width]
    return np.clip((x + y) * 4 - 120, 0, 255).astype(np.uint8)


def _saved(image: Image.Image | np.ndarray, file_format: str, **how: object) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, file_format, **how)
    return buffer.getvalue()


def _opened(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))


def _orientations() -> Iterator[tuple[str, bytes, np.ndarray]]:
    for file_format in ("PNG", "JPEG", "WEBP"):
        for orientation in range(1, 9):
            exif = Image.Exif()
            exif[0x0112] = orientation
            file = _saved(scene(), file_format, exif=exif, **({"lossless": True} if file_format == "WEBP" else {}))
            upright = ImageOps.exif_transpose(Image.open(io.BytesIO(file))).convert("RGB")
            yield f"{file_format} turned {orientation}", file, np.asarray(upright)


def _profiles() -> Iterator[tuple[str, bytes, np.ndarray]]:
    profiles = {
        "Display P3": rgb_profile(P3, SRGB_CURVE, "Display P3"),
        "AdobeRGB": rgb_profile(ADOBE, (0, 2.19921875), "Adobe RGB (1998)"),
        "linear sRGB": rgb_profile(SRGB, (0, 1.0), "Linear sRGB"),
    }
    for name, profile in profiles.items():
        for file_format in ("PNG", "JPEG", "WEBP"):
            file = _saved(
                scene(), file_format, icc_profile=profile, **({"quality": 95} if file_format != "PNG" else {})
            )
            yield f"{name} {file_format}", file, _by_lcms(Image.fromarray(_opened(file)), profile)
    p3, palette = profiles["Display P3"], Image.fromarray(scene()).quantize(64)
    yield "P3 palette", _saved(palette, "PNG", icc_profile=p3), _by_lcms(palette.convert("RGB"), p3)
    colors = _by_lcms(Image.fromarray(scene()), p3)
    clear = np.dstack([scene(), clear_corner()])
    yield "P3 with alpha", _saved(clear, "PNG", icc_profile=p3), np.dstack([colors, clear_corner()])
    gray = Image.fromarray(scene()[..., 0])
    profile = gray_profile(1.8)
    yield "gray of gamma 1.8", _saved(gray, "PNG", icc_profile=profile), _by_lcms(gray, profile)
    cmyk = Image.fromarray(scene()).convert("CMYK")
    file = _saved(cmyk, "JPEG", quality=95)
    yield "CMYK", file, _opened(file)
    press = cmyk_profile()
    file = _saved(cmyk, "JPEG", quality=95, icc_profile=press)
    yield "CMYK of a press", file, _by_lcms(Image.open(io.BytesIO(file)), press)


def _gammas() -> Iterator[tuple[str, bytes, np.ndarray]]:
    png = _saved(scene(), "PNG")
    for gamma in (1.0, 0.55556):
        light = (scene() / 255) ** (1 / gamma)
        srgb = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
        yield f"gamma {gamma:.2f}", _with(png, (b"gAMA", struct.pack(">I", round(gamma * 1e5)))), np.rint(srgb * 255)
    marked = _with(png, (b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 100_000)))
    yield "sRGB with another gamma", marked, scene()


def _depths() -> Iterator[tuple[str, bytes, np.ndarray]]:
    alpha = clear_corner()
    for name, kind, channels in (
        ("gray", 0, scene()[..., :1]),
        ("gray and alpha", 4, np.dstack([scene()[..., 0], alpha])),
        ("RGB", 2, scene()),
        ("RGBA", 6, np.dstack([scene(), alpha])),
    ):
        colors = channels[..., :1].repeat(3, -1) if kind in (0, 4) else channels[..., :3]
        seen = np.dstack([colors, alpha]) if kind in (4, 6) else colors
        for interlaced in (False, True):
            rest = np.random.default_rng(0).integers(0, 256, channels.shape)
            deep = (channels.astype(">u2") << 8) + rest.astype(">u2")
            title = f"16-bit {name}{', interlaced' if interlaced else ''}"
            yield title, png(deep.astype(">u2"), 16, kind, interlaced), seen
    ramp = (np.arange(96 * 128).reshape(96, 128, 1) * 5 % 65536).astype(">u2")
    hidden = np.where(ramp[..., 0] == 10_000, 0, 255)
    seen = np.dstack([(ramp >> 8).repeat(3, -1), hidden])
    yield "16-bit gray, one level clear", _with(png(ramp, 16, 0), (b"tRNS", struct.pack(">H", 10_000))), seen
    yield "8-bit RGB, interlaced", png(scene(), 8, 2, True), scene()
    bits = Image.fromarray(scene()[..., 0]).convert("1")
    yield "1-bit", _saved(bits, "PNG"), np.asarray(bits.convert("RGB"))


def _transparencies() -> Iterator[tuple[str, bytes, np.ndarray]]:
    alpha, rgba = clear_corner(), np.dstack([scene(), clear_corner()])
    yield "RGBA", _saved(rgba, "PNG"), rgba
    file = _saved(rgba, "WEBP", lossless=True, exact=True)
    yield "WebP with alpha", file, rgba
    file = _saved(rgba, "WEBP", quality=80)
    yield "lossy WebP with alpha", file, np.asarray(Image.open(io.BytesIO(file)))
    gray = np.dstack([scene()[..., 0], alpha])
    yield "gray with alpha", _saved(Image.fromarray(gray), "PNG"), np.dstack([gray[..., :1].repeat(3, -1), alpha])
    for colors in (256, 16, 4, 2):
        palette = Image.fromarray(scene()).quantize(colors)
        opacities = np.linspace(0, 255, colors).astype(np.uint8)
        seen = np.dstack([np.asarray(palette.convert("RGB")), opacities[np.asarray(palette)]])
        yield f"palette of {colors} with alpha", _saved(palette, "PNG", transparency=opacities.tobytes()), seen
    palette = Image.fromarray(scene()).quantize(32)
    seen = np.dstack([np.asarray(palette.convert("RGB")), np.where(np.asarray(palette) == 5, 0, 255)])
    yield "palette, one color clear", _saved(palette, "PNG", transparency=5), seen
    level = int(scene()[40, 40, 0])
    seen = np.dstack([scene()[..., :1].repeat(3, -1), np.where(scene()[..., 0] == level, 0, 255)])
    yield "gray, one level clear", _saved(Image.fromarray(scene()[..., 0]), "PNG", transparency=level), seen
    color = tuple(scene()[10, 10].tolist())
    seen = np.dstack([scene(), np.where((scene() == color).all(-1), 0, 255)])
    yield "RGB, one color clear", _saved(scene(), "PNG", transparency=color), seen


def _jpegs() -> Iterator[tuple[str, bytes, np.ndarray]]:
    gray = Image.fromarray(scene()[..., 0])
    for name, image, how in (
        ("progressive JPEG", scene(), {"progressive": True}),
        ("JPEG of 4:2:0", scene(), {"subsampling": 2}),
        ("JPEG with restarts", scene(), {"restart_marker_rows": 1}),
        ("gray JPEG", gray, {"quality": 90}),
    ):
        file = _saved(image, "JPEG", **how)
        yield name, file, _opened(file)


def _texts() -> Iterator[tuple[str, bytes, np.ndarray]]:
    png, long = _saved(scene(), "PNG"), zlib.compress(b"x" * 1_500_000)
    for kind, head in ((b"zTXt", b"Comment\0\0"), (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0"), (b"iCCP", b"Profile\0\0")):
        yield f"{kind.decode()} of 1.5 MB", _with(png, (kind, head + long)), scene()
    many = [(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(900_000)))] * 100
    yield "90 MB of texts", _with(png, *many), scene()
    yield "bytes behind the end", png + bytes(5000), scene()
    exif = Image.Exif()
    exif[0x010E] = "x" * 60_000
    file = _saved(scene(), "JPEG", exif=exif)
    yield "long EXIF", file, _opened(file)


def _shapes() -> Iterator[tuple[str, bytes, np.ndarray]]:
    for height, width in ((1, 1), (2, 2), (30, 300), (300, 30), (64, 64)):
        yield f"{width} x {height}", _saved(scene(height, width), "PNG"), scene(height, width)
    file = _saved(scene(5000, 5000), "JPEG", quality=90)
    yield "25 megapixels", file, _opened(file)


def png(values: np.ndarray, bits: int, kind: int, interlaced: bool = False) -> bytes:
    """Write a PNG of 8 or 16 bits, which Pillow does not write in all of its kinds.

    Args:
        values: [H, W, C], big-endian.
        kind: PNG's color type.
    """
    height, width = values.shape[:2]
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    parts = (values[top::rows, left::columns] for left, top, columns, rows in passes)
    lines = b"".join(b"\0" + line.tobytes() for part in parts if part.size for line in part)
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, interlaced)
    return SIGNATURE + b"".join(map(_chunk, ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))))


def _with(png: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """Insert chunks behind a PNG's header."""
    return png[:33] + b"".join(map(_chunk, chunks)) + png[33:]


def _chunk(chunk: tuple[bytes, bytes]) -> bytes:
    kind, data = chunk
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _by_lcms(image: Image.Image, profile: bytes) -> np.ndarray:
    source, target = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    return np.asarray(ImageCms.profileToProfile(image, source, target, outputMode="RGB"))


def rgb_profile(primaries: tuple[tuple[float, ...], ...], curve: tuple[float, ...], name: str) -> bytes:
    """Build an ICC profile of primaries, XYZ each, and one parametric curve."""
    red, green, blue = (b"XYZ \0\0\0\0" + _fixed(*values) for values in primaries)
    para = b"para\0\0\0\0" + struct.pack(">HH", int(curve[0]), 0) + _fixed(*curve[1:])
    tags = {b"rXYZ": red, b"gXYZ": green, b"bXYZ": blue, b"rTRC": para, b"gTRC": para, b"bTRC": para}
    return _profile(b"mntrRGB XYZ ", name, tags)


def gray_profile(gamma: float) -> bytes:
    """Build an ICC profile of gray."""
    curve = b"para\0\0\0\0" + struct.pack(">HH", 0, 0) + _fixed(gamma)
    return _profile(b"mntrGRAYXYZ ", "gray", {b"kTRC": curve})


def cmyk_profile() -> bytes:
    """Build an ICC profile of inks that are weaker than Pillow's own conversion takes them for."""
    inks = np.stack(np.meshgrid(*[[0, 1]] * 4, indexing="ij"), axis=-1).reshape(16, 4)
    rgb = np.clip(1 - 0.8 * inks[:, :3] - 0.7 * inks[:, 3:], 0, 1)
    lightness = rgb @ [0.3, 0.6, 0.1]
    lab = np.stack(
        [lightness * 65280, 32768 + 12000 * (rgb[:, 0] - rgb[:, 1]), 32768 + 12000 * (rgb[:, 1] - rgb[:, 2])]
    )
    table = (
        struct.pack(">4sIBBBB", b"mft2", 0, 4, 3, 2, 0) + _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1) + struct.pack(">HH", 2, 2)
    )
    line = struct.pack(">HH", 0, 65535)
    table += line * 4 + lab.T.astype(">u2").tobytes() + line * 3
    return _profile(b"prtrCMYKLab ", "press", {b"A2B0": table})


def _profile(kind: bytes, name: str, tags: dict[bytes, bytes]) -> bytes:
    text = name.encode("utf-16-be")
    words = b"mluc\0\0\0\0" + struct.pack(">II", 1, 12) + b"enUS" + struct.pack(">II", len(text), 28) + text
    all_tags = {b"desc": words, b"cprt": words, b"wtpt": b"XYZ \0\0\0\0" + _fixed(*D50)} | tags
    table, data, offset = b"", b"", 132 + 12 * len(all_tags)
    for signature, tag in all_tags.items():
        table += signature + struct.pack(">II", offset + len(data), len(tag))
        data += tag + bytes(-len(tag) % 4)
    head = struct.pack(">I", offset + len(data)) + b"lcms" + struct.pack(">I", 0x04000000) + kind
    head += struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acspAPPL" + bytes(20) + struct.pack(">I", 0) + _fixed(*D50)
    return head + b"lcms" + bytes(44) + struct.pack(">I", len(all_tags)) + table + data


def _fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)
