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


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def canvas_of(data: bytes, side: int) -> tuple[np.ndarray, tuple[int, int]]:
    opened = images.Picture(data)
    return opened.canvas(side), opened.size


def alpha_of(data: bytes) -> np.ndarray | None:
    return images.Picture(data).alpha()


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


def test_transparency_is_seen_over_gray() -> None:
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    palette = Image.new("P", (8, 8), 0)
    assert (images.decode(encoded(clear, "PNG")) == 128).all()
    assert (images.decode(encoded(half, "PNG")) == 64).all()
    assert (images.decode(encoded(palette, "PNG", transparency=bytes([0]))) == 128).all()


def test_alpha_is_read_from_a_channel_or_a_palette() -> None:
    half_clear = picture(8, 8)
    alpha = np.where(np.arange(64).reshape(8, 8) < 20, 0, 200).astype(np.uint8)
    np.testing.assert_array_equal(alpha_of(images.encode_png(np.dstack([half_clear, alpha]))), alpha)
    palette = Image.fromarray((alpha > 0).astype(np.uint8)).convert("P")
    np.testing.assert_array_equal(alpha_of(encoded(palette, "PNG", transparency=bytes([0]))), np.where(alpha, 255, 0))
    for opaque in (images.encode_png(half_clear), images.encode_jpeg(half_clear), images.encode_png(alpha)):
        assert alpha_of(opaque) is None


def test_alpha_stands_upright_as_its_picture_does() -> None:
    alpha = np.arange(24, dtype=np.uint8).reshape(4, 6)
    exif = Image.Exif()
    exif[0x0112] = 3
    data = encoded(Image.fromarray(np.dstack([picture(4, 6), alpha])), "PNG", exif=exif)
    np.testing.assert_array_equal(alpha_of(data), alpha[::-1, ::-1])


def test_a_transparent_level_of_sixteen_bit_gray_is_that_level_alone() -> None:
    levels = np.array([[1000, 1001], [0, 65535]], np.uint16)
    gray = encoded(Image.fromarray(levels), "PNG", transparency=1000)
    assert alpha_of(gray).tolist() == [[0, 255], [255, 255]]
    assert images.decode(gray)[..., 0].tolist() == [[128, 3], [0, 255]]


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


def several(file_format: str) -> bytes:
    frames = [Image.fromarray(picture()), Image.fromarray(255 - picture())]
    return encoded(frames[0], file_format, save_all=True, append_images=frames[1:])


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
def test_animations_are_refused(file_format: str) -> None:
    with pytest.raises(images.ImageError, match=f"animated {file_format}"):
        images.decode(several(file_format))


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "TIFF", "WEBP"])
def test_animations_that_pillow_opened_are_refused_as_their_files_are(file_format: str) -> None:
    with pytest.raises(images.ImageError, match=f"^found an animated {file_format}; send one still picture$"):
        images.Picture(Image.open(io.BytesIO(several(file_format))))


def test_a_still_picture_with_a_preview_or_a_closed_file_is_no_animation(tmp_path: Path) -> None:
    with_preview = Image.open(io.BytesIO(several("MPO")))
    assert with_preview.n_frames == 2 and images.Picture(with_preview).size == (40, 24)
    (tmp_path / "still.gif").write_bytes(encoded(Image.fromarray(picture()), "GIF"))
    with Image.open(tmp_path / "still.gif") as still:
        still.load()
    assert images.decode(still).shape == (24, 40, 3)


@pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, 0)])
def test_a_picture_without_pixels_is_refused(size: tuple[int, int]) -> None:
    for empty in (np.zeros((*size, 3), np.uint8), Image.new("RGB", size[::-1])):
        with pytest.raises(images.ImageError, match=f"found {size[1]} x {size[0]} pixels; send at least 1 x 1"):
            images.Picture(empty)


def test_levels_without_a_range_are_refused() -> None:
    with pytest.raises(images.ImageError, match="found a picture of mode F.*send uint8"):
        images.Picture(Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)))
    for levels in ([[0, 65_536]], [[-1, 200]]):
        deep = images.Picture(Image.fromarray(np.array(levels, np.int32)))
        with pytest.raises(images.ImageError, match=f"from {levels[0][0]} to {levels[0][1]}; send .* 0 to 65535"):
            deep.pixels()


def test_an_array_of_truths_is_black_and_white() -> None:
    assert images.decode(np.array([[True, False]])).tolist() == [[[255] * 3, [0] * 3]]
    with pytest.raises(images.ImageError, match="an array of bool"):
        images.decode(np.zeros((4, 4, 3), bool))


def test_a_mask_that_holds_one_for_white_is_refused() -> None:
    ones, gray = np.array([[0, 1]], np.uint8), np.array([[0, 1]], np.uint16)
    palette = Image.new("P", (2, 1), 1)
    palette.putpalette([0, 0, 0, 1, 1, 1])
    for dark in (ones, np.dstack([ones] * 3), palette, Image.fromarray(gray), Image.fromarray(gray.astype(np.int32))):
        with pytest.raises(images.ImageError, match="any level above 1 of 255; send 255, or bool"):
            images.Picture(dark).mask()
    palette.putpalette([0, 0, 0, 255, 255, 255])
    assert images.Picture(palette).mask().tolist() == [[255, 255]]
    for white in (ones * 255, ones > 0, Image.fromarray(ones > 0), Image.fromarray(gray * 65_535)):
        assert images.Picture(white).mask().tolist() == [[0, 255]]
    assert images.Picture(ones * 2).mask().tolist() == [[0, 2]] and not images.Picture(ones * 0).mask().any()


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
            gray = Image.new("RGBA", upright.size, (*images.GRAY, 255))
            upright = Image.alpha_composite(gray, upright.convert("RGBA"))
        upright = upright.convert("RGB")
    np.testing.assert_array_equal(images.decode(data), np.asarray(upright))
    canvas, size = canvas_of(data, 96)
    assert size == upright.size
    np.testing.assert_array_equal(canvas, np.asarray(upright.resize((96, 96), Image.Resampling.BICUBIC)))


@pytest.mark.parametrize("size", [(68, 100), (100, 68), (60, 100), (200, 300)])
def test_a_canvas_of_any_shape_is_scaled_in_pillows_order(size: tuple[int, int]) -> None:
    """Pillow scales some tall pictures columns first, and rounds between the two."""
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
    canvas, _ = canvas_of(images.encode_png(noise), 64)
    np.testing.assert_array_equal(canvas, images.resize(noise, 64, 64))


@pytest.mark.parametrize("large_pixels", [images.LARGE_PIXELS, 0])
def test_a_canvas_of_sixteen_bits_or_other_colors_is_that_of_its_pixels(
    large_pixels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "LARGE_PIXELS", large_pixels)
    deep = Image.fromarray(np.arange(1301 * 999, dtype=np.uint32).reshape(1301, 999).astype(np.uint16))
    for data in (encoded(deep, "PNG"), encoded(large("RGB"), "PNG", icc_profile=wide_gamut_profile())):
        canvas, _ = canvas_of(data, 64)
        np.testing.assert_array_equal(canvas, images.resize(images.decode(data), 64, 64))


def test_a_canvas_of_the_pictures_own_size_is_the_picture() -> None:
    canvas, size = canvas_of(images.encode_png(picture(40, 40)), 40)
    np.testing.assert_array_equal(canvas, picture(40, 40))
    assert size == (40, 40)


PEAK = """
import resource, sys
from fireedit.platform import images
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
images.Picture(images.encode_png(images.np.zeros((8, 8, 3), "uint8"))).canvas(8)
data = sys.stdin.buffer.read()
before = peak()
images.Picture(data).canvas(512)
print((peak() - before) // 1024)
"""


@pytest.mark.parametrize(
    ("mode", "file_format", "most"),
    [("RGBA", "PNG", 150), ("P", "PNG", 75), ("RGB", "JPEG", 150), ("RGB", "WEBP", 350)],
)
def test_memory_of_a_picture_of_25_megapixels(mode: str, file_format: str, most: int) -> None:
    """Bound the MiB beside the file; a picture and its copies would take 280 to 710."""
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
    assert images.header(png[:33] + bomb * 1000 + png[33:]).size == (40, 24)
    with pytest.raises(images.ImageError, match="too many chunks"):
        images.header(png[:33] + text * 400_000 + png[33:])
    with pytest.raises(images.ImageError, match="too many chunks"):
        images.header(jpeg[:2] + b"\xff" * 1_000_000 + jpeg[2:])


def test_an_image_of_pillow_or_an_array_decodes_as_its_file_does() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    clear = np.dstack([picture(), np.full((24, 40), 90, np.uint8)])
    data = encoded(Image.fromarray(clear), "PNG", exif=exif)
    np.testing.assert_array_equal(images.decode(Image.open(io.BytesIO(data))), images.decode(data))
    np.testing.assert_array_equal(images.decode(clear), images.decode(images.encode_png(clear)))
    with pytest.raises(images.ImageError, match=r"an array of float64 \[4, 4\]"):
        images.decode(np.zeros((4, 4)))


@pytest.mark.parametrize("file_format", ["png", "jpeg", "webp"])
def test_results_are_marked_as_srgb_and_carry_their_xmp(file_format: images.Format) -> None:
    packet = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"
    data = images.encode(picture(), file_format, 100, packet)
    opened = Image.open(io.BytesIO(data))
    profile = ImageCms.ImageCmsProfile(io.BytesIO(opened.info["icc_profile"]))
    assert "srgb" in ImageCms.getProfileDescription(profile).lower() and packet in data
    assert images.encode(picture(), file_format, 100, packet) == data
    assert np.abs(images.decode(data).astype(int) - picture()).max() <= (0 if file_format != "jpeg" else 4)


def test_a_webp_keeps_transparency() -> None:
    clear = np.dstack([picture(), np.arange(960, dtype=np.uint8).reshape(24, 40)])
    np.testing.assert_array_equal(alpha_of(images.encode(clear, "webp", 100)), clear[..., 3])


def test_a_long_narrow_picture_is_not_widened_on_its_way_to_the_canvas(monkeypatch: pytest.MonkeyPatch) -> None:
    widths, new = [], Image.new

    def record(mode: str, size: tuple[int, int], *rest: object) -> Image.Image:
        widths.append(size[0])
        return new(mode, size, *rest)

    monkeypatch.setattr(images, "LARGE_PIXELS", 100)
    monkeypatch.setattr(images.Image, "new", record)
    assert images.Picture(np.zeros((5000, 1, 3), np.uint8)).canvas(64).shape == (64, 64, 3)
    assert max(widths) == 1


def test_gray_of_32_bits_may_hold_levels_of_eight() -> None:
    low, high = (Image.fromarray(np.full((2, 2), value, np.int32)) for value in (200, 51_200))
    assert (images.decode(low) == 200).all() and (images.decode(high) == 200).all()


def test_a_transparent_level_of_two_bits_or_of_a_deep_color_is_scaled_as_the_pixels_are() -> None:
    def png(bits: int, kind: int, line: bytes, clear: bytes) -> bytes:
        header = struct.pack(">IIBBBBB", 4 if kind == 0 else 2, 1, bits, kind, 0, 0, 0)
        parts = [(b"IHDR", header), (b"tRNS", clear), (b"IDAT", zlib.compress(b"\0" + line)), (b"IEND", b"")]
        return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)

    assert alpha_of(png(2, 0, bytes([0b00011011]), struct.pack(">H", 1))).tolist() == [[255, 0, 255, 255]]
    colors = struct.pack(">6H", 0x1234, 0x1234, 0x1234, 0x3434, 0x3434, 0x3434)
    assert alpha_of(png(16, 2, colors, struct.pack(">3H", 0x1234, 0x1234, 0x1234))).tolist() == [[0, 255]]


def test_a_long_compressed_text_with_a_translated_keyword_is_left_unread() -> None:
    png = images.encode_png(picture())
    text = chunk(b"iTXt", b"Title\0\1\0en\0Titel\0" + zlib.compress(b"x" * 1_500_000))
    np.testing.assert_array_equal(images.decode(png[:33] + text + png[33:]), picture())
