"""Pictures are resized, cropped and normalized to the pixel as torchvision does."""

import numpy as np
import pytest
import torch
from PIL import Image

from fireedit.jobs.evaluation.measures.preprocessing import EncoderInput, as_rgb, as_tensor, resized
from tests.jobs.evaluation.measures.plain import SIZES, photo, view

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


@pytest.mark.parametrize("short", [224, 256])
@pytest.mark.parametrize("size", SIZES)
def test_views_are_those_of_a_plain_rebuild(size: tuple[int, int], short: int) -> None:
    image = photo(*size, seed=1)
    expected = view(image, short, list(MEAN), list(STD))[0]
    torch.testing.assert_close(EncoderInput(short, 224, MEAN, STD)(image), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("width", "column"), [(7, 2), (5, 0), (6, 1), (9, 2), (8, 2)])
def test_half_pixels_of_the_crop_are_rounded_to_even(width: int, column: int) -> None:
    """The long side, 7 pixels, leaves 3 beside a crop of 4: 1.5 becomes 2; of 5 pixels 0.5 becomes 0."""
    columns = np.tile(np.arange(width, dtype=np.uint8)[None, :, None], (4, 1, 3))
    crop = EncoderInput(4, 4, (0, 0, 0), (1, 1, 1))(columns)
    assert (crop[0, 0] * 255).round().tolist() == list(range(column, column + 4))


def test_the_long_side_is_rounded_down() -> None:
    """A picture of 100 x 159 becomes 10 x 15, not 10 x 16, and its view begins at row 2."""
    image = photo(100, 159, seed=2)
    expected = as_tensor(image.resize((10, 15), Image.Resampling.BICUBIC))[:, 2:12]
    assert torch.equal(EncoderInput(10, 10, (0, 0, 0), (1, 1, 1))(image), expected)


def test_a_batch_takes_pictures_of_any_sizes() -> None:
    prepare = EncoderInput(8, 8, MEAN, STD)
    images = [photo(20, 9, 0), np.asarray(photo(9, 20, 1))]
    batch = prepare.batch(images)
    assert batch.shape == (2, 3, 8, 8) and batch.dtype == torch.float32
    assert torch.equal(batch[1], prepare(images[1]))


def test_pictures_of_other_modes_become_rgb() -> None:
    assert np.array_equal(as_tensor(Image.new("L", (3, 2), 51)).numpy(), np.full((3, 2, 3), 0.2, np.float32))
    assert as_rgb(Image.new("RGBA", (2, 2), (9, 8, 7, 0))).getpixel((0, 0)) == (9, 8, 7)


def test_a_picture_of_the_wanted_size_keeps_its_pixels() -> None:
    image = photo(13, 9, 0)
    assert np.array_equal(np.asarray(resized(image, (13, 9))), np.asarray(image))
    assert resized(image, (9, 13)).size == (9, 13)


@pytest.mark.parametrize("array", [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8)])
def test_other_arrays_are_refused(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"found an array .* give uint8 RGB \[H, W, 3\]"):
        as_rgb(array)
