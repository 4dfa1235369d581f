import random
from pathlib import Path

import numpy as np
import pytest

from fireedit.platform import images
from fireedit.platform.data.corpora import masks, rows

GRAY = np.full((20, 40, 3), 90, np.uint8)
REGION = np.zeros((20, 40), bool)
REGION[5:10, 10:30] = True
BOX = (0.25, 0.25, 0.75, 0.5)


def erased(opacity: int = 0, color: int = 90, elsewhere: int = 255) -> bytes:
    """Gray picture whose region has this opacity and color."""
    image = GRAY.copy()
    image[REGION] = color
    return images.encode_png(np.dstack([image, np.where(REGION, opacity, elsewhere).astype(np.uint8)]))


def test_a_region_becomes_a_box_in_fractions_of_the_sides() -> None:
    for region, boxes in ((REGION, (BOX,)), (np.ones((3, 5), bool), ((0.0, 0.0, 1.0, 1.0),)), (np.zeros((3, 5)), ())):
        stored = images.encode_png(np.where(region, 255, 0).astype(np.uint8))
        assert masks.boxes(stored, masks.bright, "mask") == boxes


def test_the_transparent_part_is_the_mask_whatever_its_color() -> None:
    np.testing.assert_array_equal(masks.erased(erased(color=200)), REGION)


def test_white_is_only_a_color_beside_transparency() -> None:
    image = GRAY.copy()
    image[15:] = 255
    data = images.encode_png(np.dstack([image, np.where(REGION, 0, 255).astype(np.uint8)]))
    np.testing.assert_array_equal(masks.erased(data), REGION)


def test_a_half_transparent_part_is_not_erased() -> None:
    assert masks.boxes(erased(opacity=128), masks.erased, "mask") == ()


@pytest.mark.parametrize("alpha", [True, False])
def test_without_transparency_pure_white_is_the_mask(alpha: bool) -> None:
    image = GRAY.copy()
    image[REGION] = 255
    image[0, 0] = 254, 255, 255
    opaque = np.dstack([image, np.full(REGION.shape, 255, np.uint8)])
    np.testing.assert_array_equal(masks.erased(images.encode_png(opaque if alpha else image)), REGION)


def test_white_parts_of_the_source_were_not_erased() -> None:
    image = GRAY.copy()
    image[15:] = 255
    source = images.encode_png(image)
    image[REGION] = 255
    np.testing.assert_array_equal(masks.erased(images.encode_png(image), source), REGION)


def test_the_noise_of_jpeg_does_not_widen_a_mask() -> None:
    sharp = np.where(REGION, 255, 0).astype(np.uint8)
    data = images.encode_jpeg(sharp, quality=60)
    assert masks.box(images.decode(data).any(axis=-1)) != BOX, "there is noise"
    assert masks.boxes(data, masks.bright, "mask") == (BOX,)
    assert masks.boxes(images.encode_png(sharp), masks.bright, "mask") == (BOX,)


@pytest.mark.parametrize("data", [b"", b"<html>", erased()[:-40]])
def test_a_damaged_mask_is_a_bad_row_and_no_mask_is_none(data: bytes) -> None:
    for decode in (masks.erased, masks.bright):
        assert masks.boxes(None, decode, "mask") == ()
        with pytest.raises(rows.BadRow, match="mask: found"):
            masks.boxes(data, decode, "mask")


def test_a_mask_that_is_named_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "mask.png").write_bytes(erased())
    assert masks.read_boxes(str(tmp_path), "mask.png", masks.erased) == (BOX,)
    with pytest.raises(rows.BadRow, match="none.png: no such file"):
        masks.read_boxes(str(tmp_path), "none.png", masks.erased)
    assert masks.read_boxes(str(tmp_path), "", masks.erased) == ()


def test_a_request_comes_with_the_color_that_it_names() -> None:
    for seed in range(50):
        instruction, color = masks.request(random.Random(seed), "the dog")
        assert "the dog" in instruction and color in instruction


def test_paint_blends_by_half_inside_the_mask_only() -> None:
    image = np.full((4, 4, 3), 101, np.uint8)
    mask = np.zeros((4, 4), bool)
    mask[1, 2] = True
    painted = masks.paint(image, mask, "red")
    assert painted[1, 2].tolist() == [178, 50, 50]
    assert (painted[~mask] == 101).all() and (image == 101).all()
