"""RoIAlign equals a plain loop over bins that follows mmcv's CUDA kernel, on boxes of every kind."""

import math

import pytest
import torch
from torch import Tensor

from fireedit.models.layers.roi_align import CHUNK, SAMPLES, roi_align

SCALE = 0.3
BOXES = {
    "inside": (3, 4, 30, 41),
    "partly outside": (-6, 2, 60, 50),
    "wholly outside": (80, 80, 120, 100),
    "around the whole map": (-40, -40, 120, 110),
    "tiny": (20, 20, 20.5, 20.25),
    "without a size": (12, 9, 12, 9),
    "negative width": (30, 8, 10, 25),
    "negative width and height": (50, 40, 6, 3),
    "negative and outside": (20, 15, -25, 60),
}


def bilinear(feature: Tensor, y: float, x: float) -> Tensor:
    """Interpolate [C, H, W] at a point, in cells."""
    height, width = feature.shape[-2:]
    if y < -1 or y > height or x < -1 or x > width:
        return torch.zeros(feature.shape[0])
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = math.floor(y), math.floor(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    dy, dx = y - top, x - left
    upper = (1 - dx) * feature[:, top, left] + dx * feature[:, top, right]
    lower = (1 - dx) * feature[:, bottom, left] + dx * feature[:, bottom, right]
    return (1 - dy) * upper + dy * lower


def plain_roi_align(feature: Tensor, box: tuple[float, ...], size: int, scale: float, ratio: int) -> Tensor:
    """Pool a box of an image to [C, size, size], bin by bin and sample by sample."""
    left, top, right, bottom = (side * scale - 0.5 for side in box)
    bin_width, bin_height = (right - left) / size, (bottom - top) / size
    bins = torch.zeros(feature.shape[0], size, size)
    for row in range(size):
        for column in range(size):
            for sample in range(ratio * ratio):
                y = top + (row + (sample // ratio + 0.5) / ratio) * bin_height
                x = left + (column + (sample % ratio + 0.5) / ratio) * bin_width
                bins[:, row, column] += bilinear(feature, y, x) / ratio**2
    return bins


@pytest.fixture
def features() -> Tensor:
    return torch.randn(2, 5, 13, 17, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [7, 4])
def test_roi_align_agrees_with_the_plain_loop(features: Tensor, size: int) -> None:
    image_of_each = [row % 2 for row in range(len(BOXES))]
    boxes = torch.tensor(list(BOXES.values()), dtype=torch.float32)
    pooled = roi_align(features, boxes, torch.tensor(image_of_each), size, SCALE)
    for row, (kind, box) in enumerate(BOXES.items()):
        expected = plain_roi_align(features[image_of_each[row]], box, size, SCALE, SAMPLES)
        assert torch.allclose(pooled[row], expected, atol=1e-5, rtol=1e-5), f"a box {kind}"


def test_roi_align_takes_an_image_without_boxes(features: Tensor) -> None:
    assert roi_align(features, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), 4, SCALE).shape == (0, 5, 4, 4)
    one = roi_align(features, torch.tensor([[3.0, 4.0, 30.0, 41.0]]), torch.tensor([1]), 4, SCALE)
    assert one.shape == (1, 5, 4, 4)


def test_roi_align_of_many_images_equals_each_alone() -> None:
    images = torch.randn(2 * CHUNK + 1, 5, 13, 17, generator=torch.Generator().manual_seed(1))
    image_of_each = torch.tensor([3, 0, 16, 3, 9, 9, 3, 15, 0, 8])  # in no order; most images have no box
    boxes = torch.tensor(list(BOXES.values()) * 2, dtype=torch.float32)[: len(image_of_each)]
    together = roi_align(images, boxes, image_of_each, 4, SCALE)
    for pooled, box, image in zip(together, boxes, image_of_each, strict=True):
        alone = roi_align(images[image : image + 1], box[None], torch.zeros(1, dtype=torch.int64), 4, SCALE)
        assert torch.equal(pooled, alone[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_roi_align_in_half_precision_only_rounds_the_values(features: Tensor, dtype: torch.dtype) -> None:
    boxes = torch.tensor(list(BOXES.values()), dtype=torch.float32)
    image_of_each = torch.zeros(len(boxes), dtype=torch.int64)
    rounded = features.to(dtype)
    half = roi_align(rounded, boxes, image_of_each, 7, SCALE)
    assert half.dtype == dtype
    assert torch.equal(half, roi_align(rounded.float(), boxes, image_of_each, 7, SCALE).to(dtype))


def test_roi_align_passes_gradients_to_the_features(features: Tensor) -> None:
    features.requires_grad_(True)
    boxes = torch.tensor([[3.0, 4.0, 30.0, 41.0], [20.0, 20.0, 21.0, 22.0]])
    pooled = roi_align(features, boxes, torch.tensor([0, 1]), 3, SCALE)
    pooled.sum().backward()
    assert features.grad is not None
    # Each of the 9 bins of the two boxes is an average, so its gradient sums to one for each channel.
    torch.testing.assert_close(features.grad.sum(dim=(1, 2, 3)), torch.full((2,), 9.0 * 5))
