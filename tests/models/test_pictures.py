"""Pictures into the pipeline: masks of every kind, and arguments that are none."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from fireedit.models.pictures import read_images, read_masks
from fireedit.platform.images import Picture

WHERE = np.array([[True, False, True], [False, False, True]])
SOURCE = Picture(np.zeros((2, 3, 3), np.uint8))
SHARES = WHERE.astype(np.float32)


@pytest.mark.parametrize(
    "mask",
    [
        WHERE,
        WHERE.astype(np.uint8) * 255,
        SHARES,
        SHARES.astype(np.float64),
        Image.fromarray(WHERE),
        Image.fromarray(SHARES),
        Image.fromarray(WHERE.astype(np.uint8) * 255),
    ],
)
def test_a_mask_is_white_where_it_is_true_or_one_or_255(mask: Any) -> None:
    (levels,) = read_masks([mask], [SOURCE])
    assert levels is not None and levels.dtype == np.uint8 and np.array_equal(levels, WHERE * 255)


def test_a_mask_in_floating_point_may_have_levels_between() -> None:
    (levels,) = read_masks(Image.fromarray(SHARES * 0.2), [SOURCE])
    assert levels is not None and np.array_equal(levels, WHERE * 51)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (WHERE.astype(np.uint8), "^mask_image: .*1 of 255; send 255, or bool"),
        (Image.fromarray(SHARES * 255), "^mask_image: found a picture of mode F"),
        (SHARES * np.nan, "^mask_image: found an array of float32"),
        (None, "^mask_image is a NoneType; write a PIL image"),
        ("mask.png", "^mask_image is a str"),
        (np.zeros((3, 2), bool), "^mask_image: found 2 x 3; write .*: 3 x 2"),
    ],
)
def test_what_is_no_mask_of_the_source_is_refused(mask: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_masks([mask], [SOURCE])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((0, 0, 3), np.uint8), "^image: found 0 x 0 pixels"),
        (5, "^image is a int; write a PIL image"),
    ],
)
def test_what_is_no_picture_is_refused_by_the_arguments_name(image: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_images([image])
