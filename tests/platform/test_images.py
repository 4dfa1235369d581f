import io
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from fireedit.platform import images

ROOT = Path(__file__).parents[2]


def picture(height: int = 24, width: int = 40) -> np.ndarray:
    """Smooth picture whose four corners differ."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // width, y * 255 // height, np.full_like(x, 90)], axis=-1).astype(np.uint8)


def encoded(image: Image.Image, file_format: str, **how: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **how)
    return buffer.getvalue()


def test_png_keeps_every_pixel() -> None:
    np.testing.assert_array_equal(images.decode(images.encode_png(picture())), picture())


@pytest.mark.parametrize("file_format", ["JPEG", "WEBP"])
def test_lossy_formats_stay_close(file_format: str) -> None:
    decoded = images.decode(encoded(Image.fromarray(picture()), file_format, quality=95))
    assert decoded.shape == (24, 40, 3) and decoded.dtype == np.uint8
    assert np.abs(decoded.astype(int) - picture()).mean() < 3


def test_a_jpeg_keeps_its_colors() -> None:
    red = np.zeros((16, 16, 3), np.uint8)
    red[:, 8:, 0] = 255
    assert np.abs(images.decode(images.encode_jpeg(red)).astype(int) - red).max() < 12


def test_decoded_images_can_be_written_to() -> None:
    images.decode(images.encode_png(picture()))[0, 0] = 1


def test_transparency_becomes_white() -> None:
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    palette = Image.new("P", (8, 8), 0)
    assert (images.decode(encoded(clear, "PNG")) == 255).all()
    assert (images.decode(encoded(half, "PNG")) == 127).all()
    assert (images.decode(encoded(palette, "PNG", transparency=bytes([0]))) == 255).all()


def test_alpha_is_read_from_a_channel_or_a_palette() -> None:
    half_clear = picture(8, 8)
    alpha = np.where(np.arange(64).reshape(8, 8) < 20, 0, 200).astype(np.uint8)
    np.testing.assert_array_equal(images.decode_alpha(images.encode_png(np.dstack([half_clear, alpha]))), alpha)
    palette = Image.fromarray((alpha > 0).astype(np.uint8)).convert("P")
    np.testing.assert_array_equal(
        images.decode_alpha(encoded(palette, "PNG", transparency=bytes([0]))), np.where(alpha, 255, 0)
    )
    for opaque in (images.encode_png(half_clear), images.encode_jpeg(half_clear), images.encode_png(alpha)):
        assert images.decode_alpha(opaque) is None


def test_alpha_stands_upright_as_its_picture_does() -> None:
    alpha = np.arange(24, dtype=np.uint8).reshape(4, 6)
    exif = Image.Exif()
    exif[0x0112] = 3
    data = encoded(Image.fromarray(np.dstack([picture(4, 6), alpha])), "PNG", exif=exif)
    np.testing.assert_array_equal(images.decode_alpha(data), alpha[::-1, ::-1])


def test_a_transparent_level_of_sixteen_bit_gray_is_ignored() -> None:
    gray = encoded(Image.fromarray(np.full((4, 4), 1000, np.uint16)), "PNG", transparency=1000)
    assert images.decode_alpha(gray) is None and (images.decode(gray) == 1000 >> 8).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = Image.fromarray(picture()).convert(mode)
    assert images.decode(encoded(image, "JPEG" if mode == "CMYK" else "PNG")).shape == (24, 40, 3)


def test_sixteen_bit_gray_is_scaled_not_clipped() -> None:
    ramp = (np.arange(64, dtype=np.uint16) * 1024).reshape(8, 8)
    assert images.decode(encoded(Image.fromarray(ramp), "PNG"))[..., 0].tolist() == (ramp >> 8).tolist()


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [(3, lambda p: p[::-1, ::-1]), (6, lambda p: p.swapaxes(0, 1)[:, ::-1]), (8, lambda p: p.swapaxes(0, 1)[::-1])],
)
def test_exif_orientation_is_applied(orientation: int, turned: object) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = images.decode(encoded(Image.fromarray(picture()), "PNG", exif=exif))
    np.testing.assert_array_equal(decoded, turned(picture()))


def test_a_draft_is_smaller_but_no_side_falls_below() -> None:
    big = encoded(Image.fromarray(picture(480, 640)), "JPEG")
    assert images.decode(big, draft=64).shape == (60 * 2, 80 * 2, 3)
    assert images.decode(big).shape == (480, 640, 3)
    assert images.decode(images.encode_png(picture()), draft=4).shape == (24, 40, 3)


def test_too_many_pixels_are_refused_before_decoding() -> None:
    header_only = images.encode_png(picture(300, 300))[:60]
    with pytest.raises(images.ImageError, match=r"300 x 300 pixels; .*10,000"):
        images.decode(header_only, max_pixels=10_000)


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
def test_animations_are_refused(file_format: str) -> None:
    frames = [Image.fromarray(picture()), Image.fromarray(255 - picture())]
    moving = encoded(frames[0], file_format, save_all=True, append_images=frames[1:])
    with pytest.raises(images.ImageError, match=f"animated {file_format}"):
        images.decode(moving)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
def test_truncated_data_is_refused(file_format: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    whole = encoded(noise, file_format)
    for cut in (20, len(whole) // 2, len(whole) - 40):
        with pytest.raises(images.ImageError, match=f"damaged {file_format}"):
            images.decode(whole[:cut])


@pytest.mark.parametrize("data", [b"", b"GIF89a....", b"<svg>", b"%PDF-1.4"])
def test_other_formats_are_refused(data: bytes) -> None:
    with pytest.raises(images.ImageError, match="send a PNG, JPEG or WebP picture"):
        images.decode(data)


def test_a_git_lfs_pointer_is_named() -> None:
    with pytest.raises(images.ImageError, match="Git-LFS pointer; run git lfs pull"):
        images.decode(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


def test_damaged_bytes_raise_nothing_else_and_warn_of_nothing() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for file_format in ("PNG", "JPEG", "WEBP"):
            whole = np.frombuffer(encoded(Image.fromarray(picture()), file_format, exif=exif), np.uint8)
            for _ in range(400):
                broken = whole.copy()
                broken[rng.integers(4, len(broken), 4)] = rng.integers(0, 256, 4)
                try:
                    images.decode(broken.tobytes(), max_pixels=1_000_000)
                except images.ImageError:
                    continue


def test_label_maps_keep_their_numbers() -> None:
    labels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    indexed = Image.fromarray(labels).convert("P")
    indexed.putpalette([0, 0, 0] * 256)
    np.testing.assert_array_equal(images.decode_labels(images.encode_png(labels)), labels)
    np.testing.assert_array_equal(images.decode_labels(encoded(indexed, "PNG")), labels)


def resaved(labels: np.ndarray) -> dict[str, bytes]:
    """The same label map as other programs store it without loss."""
    gray, wide = Image.fromarray(labels), labels.astype(np.uint16)
    values, indices = np.unique(labels, return_inverse=True)
    order = np.random.default_rng(0).permutation(len(values))
    palette = Image.fromarray(np.argsort(order)[indices].reshape(labels.shape).astype(np.uint8)).convert("P")
    palette.putpalette(np.repeat(values[order], 3).tolist())
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "gray": encoded(gray, "PNG"),
        "palette of grays in another order": encoded(palette, "PNG"),
        "16 bits, scaled": encoded(Image.fromarray(wide * 257), "PNG"),
        "16 bits, as they are": encoded(Image.fromarray(wide), "PNG"),
        "gray and alpha": encoded(gray.convert("LA"), "PNG"),
        "RGB": encoded(gray.convert("RGB"), "PNG"),
        "RGBA": encoded(gray.convert("RGBA"), "PNG"),
        "turned": encoded(gray.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif),
    }


@pytest.mark.parametrize("form", resaved(np.zeros((1, 1), np.uint8)))
def test_a_label_map_reads_alike_however_it_is_stored(form: str) -> None:
    labels = np.random.default_rng(1).choice(np.array([0, 3, 17, 90, 181, 255], np.uint8), (9, 12))
    np.testing.assert_array_equal(images.decode_labels(resaved(labels)[form]), labels)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("interlaced", [False, True])
def test_gray_levels_read_alike_at_every_bit_depth(bits: int, interlaced: bool) -> None:
    """A level is its share of the depth's largest, as the PNG specification has it."""
    samples = np.random.default_rng(bits).integers(0, 2, (5, 16)) * (2**bits - 1)
    data = gray_png(samples, bits, interlaced)
    wanted = (samples > 0).astype(np.uint8) * 255
    np.testing.assert_array_equal(images.decode_labels(data), wanted)
    np.testing.assert_array_equal(images.decode(data)[..., 0], wanted)


def gray_png(samples: np.ndarray, bits: int, interlaced: bool) -> bytes:
    """Write a gray PNG of any bit depth; `interlaced` in the seven passes of Adam7."""
    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    lines = b""
    for top, left, down, right in passes:
        for row in samples[top::down, left::right]:
            flat = "".join(f"{value:0{bits}b}" for value in row)
            lines += (
                b"\0" + bytes(int(flat[at : at + 8].ljust(8, "0"), 2) for at in range(0, len(flat), 8)) if flat else b""
            )
    height, width = samples.shape
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_one_label_under_a_colormap_is_its_index() -> None:
    indexed = Image.fromarray(np.full((4, 4), 7, np.uint8)).convert("P")
    indexed.putpalette([value for index in range(256) for value in (index // 2, index, 255 - index)])
    assert (images.decode_labels(encoded(indexed, "PNG")) == 7).all()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (images.encode_png(picture()), "found colors in a PNG of mode RGB"),
        (
            images.encode_png(np.dstack([np.zeros((4, 4, 3), np.uint8), np.eye(4, dtype=np.uint8)])),
            "found colors.*RGBA",
        ),
        (encoded(Image.fromarray(np.full((4, 4), 300, np.uint16)), "PNG"), "found labels up to 300"),
        (images.encode_jpeg(picture()), "found a JPEG; a label map is a PNG"),
    ],
)
def test_a_picture_is_no_label_map(data: bytes, message: str) -> None:
    with pytest.raises(images.ImageError, match=message):
        images.decode_labels(data)


@pytest.mark.parametrize("kind", [b"iTXtXML:com.adobe.xmp\0\1\0\0\0", b"zTXtComment\0\0", b"iCCPProfile\0\0"])
@pytest.mark.parametrize("place", [33, -12], ids=["before the pixels", "behind them"])
def test_a_long_compressed_text_spoils_no_pixels(kind: bytes, place: int) -> None:
    png = images.encode_png(picture())
    text = chunk(kind[:4], kind[4:] + zlib.compress(b"x" * 1_500_000))
    np.testing.assert_array_equal(images.decode(png[:place] + text + png[place:]), picture())


def wide_gamut_profile() -> bytes:
    """Profile of sRGB's curve with the primaries of Display P3."""
    numbers = {
        b"rXYZ": (0.51512, 0.2412, -0.00105),
        b"gXYZ": (0.29198, 0.69225, 0.04189),
        b"bXYZ": (0.1571, 0.06657, 0.78407),
    }
    numbers[b"wtpt"] = (0.9642, 1.0, 0.8249)
    fixed = {name: b"".join(struct.pack(">i", round(value * 65536)) for value in row) for name, row in numbers.items()}
    tags = {name: b"XYZ \0\0\0\0" + data for name, data in fixed.items()}
    curve = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    curve_tag = b"para\0\0\0\0\0\3\0\0" + b"".join(struct.pack(">i", round(value * 65536)) for value in curve)
    name = "Display P3".encode("utf-16-be")
    text = b"mluc\0\0\0\0" + struct.pack(">II4sII", 1, 12, b"enUS", len(name), 28) + name
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve_tag) | dict.fromkeys((b"desc", b"cprt"), text)
    table, data, first = b"", b"", 132 + 12 * len(tags)
    for kind, content in tags.items():
        table += kind + struct.pack(">II", first + len(data), len(content))
        data += content + b"\0" * (-len(content) % 4)
    head = b"lcms\4\0\0\0mntrRGB XYZ " + struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acspAPPL" + b"\0" * 24
    head += fixed[b"wtpt"] + b"lcms" + b"\0" * 44
    return struct.pack(">I", first + len(data)) + head + struct.pack(">I", len(tags)) + table + data


@pytest.mark.parametrize(
    ("file_format", "options"), [("PNG", {}), ("JPEG", {"quality": 100}), ("WEBP", {"lossless": True})]
)
def test_colors_of_another_profile_become_srgb(file_format: str, options: dict) -> None:
    data = encoded(Image.new("RGB", (16, 16), (234, 51, 35)), file_format, icc_profile=wide_gamut_profile(), **options)
    assert np.abs(images.decode(data)[0, 0].astype(int) - [255, 0, 0]).max() <= 3
    assert images.plain_jpeg_size(data) is None, "its bytes would be taken for sRGB"


@pytest.mark.parametrize("profile", [ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), b"damaged"])
def test_srgb_and_damaged_profiles_change_no_pixel(profile: bytes) -> None:
    data = encoded(Image.fromarray(picture()), "PNG", icc_profile=profile)
    np.testing.assert_array_equal(images.decode(data), picture())


def test_resize_squashes_to_the_size_asked_for() -> None:
    resized = images.resize(picture(), 16, 32)
    assert resized.shape == (32, 16, 3)
    assert images.resize(picture(), 40, 24) is not None
    checker = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    assert np.ptp(images.resize(checker, 8, 8)) < 40, "shrinking must average, not pick pixels"


def large(mode: str) -> Image.Image:
    """Picture of more than a band of rows; its sides are odd."""
    return Image.fromarray(picture(1301, 999)).convert(mode)


def turned(orientation: int) -> dict[str, Image.Exif]:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return {"exif": exif}


FILES = {
    **{f"{mode} PNG": (mode, "PNG", {}) for mode in ("1", "L", "LA", "P", "RGB")},
    **{f"RGBA PNG turned by {turn}": ("RGBA", "PNG", turned(turn)) for turn in range(1, 9)},
    "palette with transparency": ("P", "PNG", {"transparency": bytes(range(0, 256, 2))}),
    "transparent color": ("RGB", "PNG", {"transparency": (0, 0, 90)}),
    "CMYK JPEG": ("CMYK", "JPEG", {}),
    "sideways JPEG": ("RGB", "JPEG", turned(6)),
    "WebP": ("RGB", "WEBP", {"method": 0}),
    "WebP with alpha": ("RGBA", "WEBP", {"method": 0}),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_canvas_is_the_whole_picture_squashed(kind: str) -> None:
    mode, file_format, options = FILES[kind]
    image = large(mode)
    if mode == "RGBA":
        image.putalpha(large("L").transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    data = encoded(image, file_format, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # palettes with transparency
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        if upright.has_transparency_data:
            white = Image.new("RGBA", upright.size, "white")
            upright = Image.alpha_composite(white, upright.convert("RGBA"))
        upright = upright.convert("RGB")
    np.testing.assert_array_equal(images.decode(data), np.asarray(upright))
    canvas, size = images.decode_canvas(data, 96)
    assert size == upright.size
    np.testing.assert_array_equal(canvas, np.asarray(upright.resize((96, 96), Image.Resampling.BICUBIC)))


@pytest.mark.parametrize("size", [(68, 100), (100, 68), (60, 100), (200, 300)])
def test_a_canvas_of_any_shape_is_scaled_in_pillows_order(size: tuple[int, int]) -> None:
    """Pillow scales some tall pictures columns first, and rounds between the two."""
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
    canvas, _ = images.decode_canvas(images.encode_png(noise), 64)
    np.testing.assert_array_equal(canvas, images.resize(noise, 64, 64))


@pytest.mark.parametrize("large_pixels", [images.LARGE_PIXELS, 0])
def test_a_canvas_of_sixteen_bits_or_other_colors_is_that_of_its_pixels(
    large_pixels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "LARGE_PIXELS", large_pixels)
    deep = Image.fromarray(np.arange(1301 * 999, dtype=np.uint32).reshape(1301, 999).astype(np.uint16))
    for data in (encoded(deep, "PNG"), encoded(large("RGB"), "PNG", icc_profile=wide_gamut_profile())):
        canvas, _ = images.decode_canvas(data, 64)
        np.testing.assert_array_equal(canvas, images.resize(images.decode(data), 64, 64))


def test_a_canvas_of_the_pictures_own_size_is_the_picture() -> None:
    canvas, size = images.decode_canvas(images.encode_png(picture(40, 40)), 40)
    np.testing.assert_array_equal(canvas, picture(40, 40))
    assert size == (40, 40)


@pytest.mark.parametrize("options", [{}, turned(5), turned(7), {"progressive": True}])
def test_a_large_jpegs_canvas_is_within_a_level_on_average(options: dict) -> None:
    random = np.random.default_rng(0)
    noise = Image.fromarray(random.integers(0, 256, (250, 201, 3), np.uint8)).resize((2010, 2500))
    data = encoded(noise, "JPEG", quality=90, **options)
    for side in (64, 128):
        canvas, size = images.decode_canvas(data, side)
        exact = images.decode(data)
        assert size == exact.shape[1::-1]
        assert np.abs(canvas.astype(int) - images.resize(exact, side, side)).mean() < 1


PEAK = """
import resource, sys
from fireedit.platform import images
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
images.decode_canvas(images.encode_png(images.np.zeros((8, 8, 3), "uint8")), 8)
data = sys.stdin.buffer.read()
before = peak()
images.decode_canvas(data, 512)
print((peak() - before) // 1024)
"""


@pytest.mark.parametrize(
    ("mode", "file_format", "most"),
    [("RGBA", "PNG", 150), ("P", "PNG", 75), ("RGB", "JPEG", 50), ("RGB", "WEBP", 350)],
)
def test_memory_of_a_picture_of_25_megapixels(mode: str, file_format: str, most: int) -> None:
    """Bound the MiB beside the file; all formats but JPEG took 280 to 710 as a picture and its copies."""
    how = {"compress_level": 1} if file_format == "PNG" else {}
    data = encoded(Image.new(mode, (5000, 5000)), file_format, **how)
    done = subprocess.run([sys.executable, "-c", PEAK], input=data, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    assert int(done.stdout) < most


def test_a_header_is_read_without_the_pixels() -> None:
    for file_format in ("PNG", "JPEG", "WEBP"):
        data = encoded(large("RGB"), file_format)
        assert images.header(data[: len(data) if file_format == "WEBP" else 800]) == images.Header(
            file_format, (999, 1301)
        )
    with pytest.raises(images.ImageError, match="999 x 1301 pixels"):
        images.header(images.encode_png(picture(1301, 999)), max_pixels=1_000_000)


def test_a_file_of_millions_of_pieces_is_refused_soon() -> None:
    """Pillow reads each piece in Python, and one header at a time in a process."""
    png, jpeg = images.encode_png(picture()), images.encode_jpeg(picture())
    text = struct.pack(">I", 3) + b"tEXtk\0v" + struct.pack(">I", zlib.crc32(b"tEXtk\0v"))
    packed = b"zTXtk\0\0" + zlib.compress(bytes(900_000), 9)
    bomb = struct.pack(">I", len(packed) - 4) + packed + struct.pack(">I", zlib.crc32(packed))
    for data in (png[:33] + text * 400_000 + png[33:], png[:33] + bomb * 1000 + png[33:]):
        with pytest.raises(images.ImageError, match="too many chunks or too long texts"):
            images.header(data)
    with pytest.raises(images.ImageError, match="too many chunks"):
        images.header(jpeg[:2] + b"\xff" * 1_000_000 + jpeg[2:])
