"""Pictures into the pipeline: masks of every kind, and arguments that are none."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fireedit.models.pictures import check_inputs, read_images, read_masks, result_sizes, tensors_of
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


@pytest.mark.parametrize(
    ("invalid", "message"),
    [
        ({"prompts": [5]}, "^prompt is 5; write a text"),
        ({"copies": 2.5}, "^num_images_per_prompt is 2.5; write a whole number"),
        ({"copies": "2"}, "^num_images_per_prompt is '2'"),
        ({"copies": True}, "^num_images_per_prompt is True"),
        ({"copies": None}, "^num_images_per_prompt is None"),
        ({"generator": 5}, "^generator is 5; write torch.Generator"),
        ({"generator": [5]}, "^generator is 5"),
    ],
)
def test_an_argument_of_another_type_is_named(invalid: dict[str, Any], message: str) -> None:
    valid = {"prompts": ["x"], "images": [b""], "copies": np.int64(1), "generator": None, "output_type": "pil"}
    check_inputs(**valid)
    check_inputs(**valid | {"generator": (torch.Generator(),)})
    with pytest.raises(ValueError, match=message):
        check_inputs(**valid | invalid)


@pytest.mark.parametrize("size", [(10**6, 10**6), (64_000_001, 1), (64.5, 64), 5, ("a", "b"), None, (0, 8), (8,)])
def test_a_size_that_no_picture_has_is_refused(size: Any) -> None:
    with pytest.raises(ValueError, match="^size is .*; write 'auto', 'canvas' or .* at most 64,000,000 pixels in all"):
        result_sizes(size, [SOURCE], 64, "pil")


def test_a_size_may_be_of_numpys_numbers() -> None:
    assert result_sizes([np.int64(8), 4], [SOURCE], 64, "pil") == [(8, 4)]


@pytest.mark.parametrize("regions", [5, ["a"], [[[0, 0], [1]]]])
def test_regions_that_are_no_arrays_are_refused(regions: Any) -> None:
    with pytest.raises(ValueError, match="^regions are .*write an array"):
        tensors_of(regions, 1)
