import io
import warnings

import numpy as np
import pytest
from PIL import Image

from fireedit.platform import images


def picture(height: int = 24, width: int = 40) -> np.ndarray:
    """A smooth picture, whose four corners differ."""
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


def test_a_jpeg_keeps_its_colours() -> None:
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


def test_alpha_is_read_from_whatever_carries_it() -> None:
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


def test_a_clear_colour_of_sixteen_bit_grey_is_ignored_everywhere() -> None:
    grey = encoded(Image.fromarray(np.full((4, 4), 1000, np.uint16)), "PNG", transparency=1000)
    assert images.decode_alpha(grey) is None and (images.decode(grey) == 1000 >> 8).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = Image.fromarray(picture()).convert(mode)
    assert images.decode(encoded(image, "JPEG" if mode == "CMYK" else "PNG")).shape == (24, 40, 3)


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
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
    with pytest.raises(images.ImageError, match=r"found 300 x 300 pixels; send at most 10,000"):
        images.decode(header_only, max_pixels=10_000)


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
def test_animations_are_refused(file_format: str) -> None:
    frames = [Image.fromarray(picture()), Image.fromarray(255 - picture())]
    moving = encoded(frames[0], file_format, save_all=True, append_images=frames[1:])
    with pytest.raises(images.ImageError, match=f"animated {file_format}; send one still picture"):
        images.decode(moving)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
def test_truncated_data_is_refused(file_format: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    whole = encoded(noise, file_format)
    for cut in (20, len(whole) // 2, len(whole) - 40):
        with pytest.raises(images.ImageError, match=f"damaged {file_format}"):
            images.decode(whole[:cut])


@pytest.mark.parametrize("found", [b"", b"GIF89a....", b"<svg>", b"%PDF-1.4"])
def test_other_formats_are_refused_with_what_to_send(found: bytes) -> None:
    with pytest.raises(images.ImageError, match="send a PNG, JPEG or WebP picture"):
        images.decode(found)


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


def test_a_colour_picture_is_no_label_map() -> None:
    with pytest.raises(images.ImageError, match="found a PNG of mode RGB; a label map is"):
        images.decode_labels(images.encode_png(picture()))


def test_resize_squashes_to_the_size_asked_for() -> None:
    resized = images.resize(picture(), 16, 32)
    assert resized.shape == (32, 16, 3)
    assert images.resize(picture(), 40, 24) is not None
    checker = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    assert np.ptp(images.resize(checker, 8, 8)) < 40, "shrinking must average, not pick pixels"
