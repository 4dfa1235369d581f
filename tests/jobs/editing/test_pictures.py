"""Files of edited pictures, sizes and masks."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fireedit.jobs.editing import pictures
from fireedit.jobs.editing.sources import EditRow
from fireedit.platform.images import decode, encode_png
from tests.factories import picture


def test_every_format_decodes_and_png_keeps_every_pixel() -> None:
    image = picture(1)
    decoded = {name: decode(pictures.encode_picture(image, name)) for name in pictures.SUFFIXES}
    assert np.array_equal(decoded["png"], image)
    assert all(np.abs(each.astype(int) - image).mean() < 5 for each in decoded.values())


def test_the_suffix_chooses_the_format() -> None:
    assert [pictures.format_of(path) for path in ("a.PNG", "b/c.jpeg", "s3://b/c.webp?scheme=http")] == [
        "png",
        "jpeg",
        "webp",
    ]
    with pytest.raises(pictures.PictureError, match="a.gif"):
        pictures.format_of("a.gif")


@pytest.mark.parametrize("text", ["", "0x5", "20000x5", "10X10", "large"])
def test_a_wrong_size_is_one_sentence(text: str) -> None:
    with pytest.raises(pictures.PictureError, match="write auto, canvas or WIDTHxHEIGHT"):
        pictures.require_size(text)


def test_a_size_is_the_pictures() -> None:
    assert pictures.size_of(pictures.require_size("30x20")) == (30, 20)
    assert pictures.finish_picture(picture(1), b"", "30x20", 64).shape == (20, 30, 3)
    assert pictures.finish_picture(picture(1), b"", "auto", 64).shape == picture(1).shape


def test_a_mask_is_transparent_or_white_where_the_picture_may_change() -> None:
    mask = np.zeros((6, 8), np.uint8)
    mask[:3] = 255
    assert np.array_equal(pictures.read_mask(encode_png(mask)), mask)
    assert np.array_equal(pictures.read_mask(pictures.encode_mask(mask)), mask)
    assert np.asarray(Image.open(io.BytesIO(pictures.encode_mask(mask))))[..., 3].tolist() == (255 - mask).tolist()


def test_a_failed_row_writes_no_picture(tmp_path: Path) -> None:
    good, bad = EditRow(0, "a/b", "b.png", "red", 1), EditRow(1, "c", "c.png", "red", 1, error="damaged")
    record = pictures.write_row(good, b"picture", str(tmp_path), "jpeg", 0.5, 3)
    assert (tmp_path / record["file"]).read_bytes() == b"picture" and record["file"] == "edited/a/b.jpg"
    assert pictures.write_row(bad, b"", str(tmp_path), "jpeg", 0.5, 3)["error"] == "damaged"
    assert [path.name for path in tmp_path.rglob("*.*")] == ["b.jpg"]
