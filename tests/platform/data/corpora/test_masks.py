from pathlib import Path

import numpy as np
import pytest

from fireedit.platform import images
from fireedit.platform.data.corpora import masks, segmentation

GREY = np.full((20, 40, 3), 90, np.uint8)
REGION = np.zeros((20, 40), bool)
REGION[5:10, 10:30] = True
BOX = (0.25, 0.25, 0.75, 0.5)


def erased(opacity: int = 0, color: int = 90, elsewhere: int = 255) -> bytes:
    """A grey picture whose region has this opacity and colour."""
    image = GREY.copy()
    image[REGION] = color
    return images.encode_png(np.dstack([image, np.where(REGION, opacity, elsewhere).astype(np.uint8)]))


def test_a_region_becomes_a_box_in_fractions_of_the_sides() -> None:
    for region, boxes in ((REGION, (BOX,)), (np.ones((3, 5), bool), ((0.0, 0.0, 1.0, 1.0),)), (np.zeros((3, 5)), ())):
        stored = images.encode_png(np.where(region, 255, 0).astype(np.uint8))
        assert masks.boxes(stored, masks.bright) == boxes


def test_what_is_transparent_is_the_mask_whatever_its_colour() -> None:
    np.testing.assert_array_equal(masks.erased(erased(color=200)), REGION)


def test_where_there_is_transparency_white_is_only_a_colour() -> None:
    image = GREY.copy()
    image[15:] = 255
    data = images.encode_png(np.dstack([image, np.where(REGION, 0, 255).astype(np.uint8)]))
    np.testing.assert_array_equal(masks.erased(data), REGION)


def test_what_is_half_transparent_is_not_erased() -> None:
    assert masks.boxes(erased(opacity=128), masks.erased) == ()


@pytest.mark.parametrize("alpha", [True, False])
def test_without_transparency_pure_white_is_the_mask(alpha: bool) -> None:
    image = GREY.copy()
    image[REGION] = 255
    image[0, 0] = 254, 255, 255
    opaque = np.dstack([image, np.full(REGION.shape, 255, np.uint8)])
    np.testing.assert_array_equal(masks.erased(images.encode_png(opaque if alpha else image)), REGION)


def test_what_is_white_in_the_source_was_not_erased() -> None:
    image = GREY.copy()
    image[15:] = 255
    source = images.encode_png(image)
    image[REGION] = 255
    np.testing.assert_array_equal(masks.erased(images.encode_png(image), source), REGION)


def test_the_noise_of_jpeg_does_not_widen_a_mask() -> None:
    sharp = np.where(REGION, 255, 0).astype(np.uint8)
    data = images.encode_jpeg(sharp, quality=60)
    assert segmentation.box(images.decode(data).any(axis=-1)) != BOX, "there is noise"
    assert masks.boxes(data, masks.bright) == (BOX,)
    assert masks.boxes(images.encode_png(sharp), masks.bright) == (BOX,)


@pytest.mark.parametrize("data", [None, b"", b"<html>", erased()[:-40]])
def test_a_missing_or_damaged_mask_has_no_box(data: bytes | None) -> None:
    assert masks.boxes(data, masks.erased) == masks.boxes(data, masks.bright) == ()


def test_a_mask_may_be_no_file_at_all(tmp_path: Path) -> None:
    (tmp_path / "mask.png").write_bytes(erased())
    assert masks.read_boxes(str(tmp_path), "mask.png", masks.erased) == (BOX,)
    assert masks.read_boxes(str(tmp_path), "none.png", masks.erased) == ()
    assert masks.read_boxes(str(tmp_path), "", masks.erased) == ()
