"""Files of edited pictures, sizes and masks."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fireedit.jobs.editing import pictures
from fireedit.jobs.editing.sources import EditRow
from fireedit.platform.images import decode, encode_png
from fireedit.platform.provenance import Provenance
from fireedit.platform.restoration import Edit
from fireedit.platform.statements import find
from tests.factories import picture


def test_every_format_decodes_and_png_keeps_every_pixel() -> None:
    image = picture(1)
    files = {name: pictures.encode_picture(image, name, Provenance(seed=3)) for name in pictures.SUFFIXES}
    assert all(find(file).by_ai and find(file).facts["seed"] == "3" for file in files.values())
    decoded = {name: decode(file) for name, file in files.items()}
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
    source = encode_png(np.dstack([picture(1), np.full((60, 80), 9, np.uint8)]))
    canvas = np.zeros((16, 16, 3), np.uint8)
    edit = Edit(canvas, canvas, np.ones((4, 4), bool))
    for size, shape in {"30x20": (20, 30, 4), "auto": (60, 80, 4), "canvas": (16, 21, 4)}.items():
        assert pictures.finish_picture(edit, source, size).shape == shape
    assert pictures.finish_picture(edit, source, "auto", pictures.ground_of("jpeg")).shape == (60, 80, 3)


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


def test_an_opaque_mask_with_an_alpha_channel_is_read_by_its_white() -> None:
    mask = np.zeros((6, 8), np.uint8)
    mask[:3] = 255
    opaque = np.dstack([mask, mask, mask, np.full_like(mask, 255)])
    assert np.array_equal(pictures.read_mask(encode_png(opaque)), mask)
