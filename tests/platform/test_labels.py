import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from fireedit.platform import images
from fireedit.platform.labels import decode_labels
from tests.platform.test_images import chunk, encoded, picture


def test_label_maps_keep_their_numbers() -> None:
    labels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    indexed = Image.fromarray(labels).convert("P")
    indexed.putpalette([0, 0, 0] * 256)
    np.testing.assert_array_equal(decode_labels(images.encode_png(labels)), labels)
    np.testing.assert_array_equal(decode_labels(encoded(indexed, "PNG")), labels)


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
    np.testing.assert_array_equal(decode_labels(resaved(labels)[form]), labels)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("interlaced", [False, True])
def test_gray_levels_read_alike_at_every_bit_depth(bits: int, interlaced: bool) -> None:
    """A level is its share of the depth's largest, as the PNG specification has it."""
    samples = np.random.default_rng(bits).integers(0, 2, (5, 16)) * (2**bits - 1)
    data = gray_png(samples, bits, interlaced)
    wanted = (samples > 0).astype(np.uint8) * 255
    np.testing.assert_array_equal(decode_labels(data), wanted)
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


def test_one_label_under_a_colormap_is_its_index() -> None:
    indexed = Image.fromarray(np.full((4, 4), 7, np.uint8)).convert("P")
    indexed.putpalette([value for index in range(256) for value in (index // 2, index, 255 - index)])
    assert (decode_labels(encoded(indexed, "PNG")) == 7).all()


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
        decode_labels(data)
