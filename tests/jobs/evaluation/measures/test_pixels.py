"""Pixel errors are MagicBrush's and scikit-image's, on pairs of any sizes, and outside a mask."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fireedit.jobs.evaluation.measures import pixels
from tests.jobs.evaluation.measures.plain import pairs, photo, unit_pixels

PAIRS = pairs()


@pytest.mark.parametrize(("output", "reference"), PAIRS)
def test_l1_and_l2_are_magicbrushs(output: Image.Image, reference: Image.Image) -> None:
    tensors = [torch.from_numpy(unit_pixels(image)) for image in (output.resize(reference.size), reference)]
    assert pixels.l1(output, reference) == pytest.approx(nn.L1Loss()(*tensors).item(), abs=1e-6)
    assert pixels.l2(output, reference) == pytest.approx(nn.MSELoss()(*tensors).item(), abs=1e-6)
    assert pixels.l1(np.asarray(output), np.asarray(reference)) == pixels.l1(output, reference)


def test_errors_of_known_pictures() -> None:
    dark, light = np.full((12, 16, 3), 51, np.uint8), np.full((12, 16, 3), 102, np.uint8)
    assert pixels.l1(dark, light) == pytest.approx(0.2) and pixels.l2(dark, light) == pytest.approx(0.04)
    assert pixels.psnr(dark, light) == pytest.approx(-10 * math.log10(0.04))
    assert pixels.ssim(dark, light) == pytest.approx((2 * 0.08 + 1e-4) / (0.04 + 0.16 + 1e-4))
    assert pixels.l1(dark, dark) == pixels.l2(dark, dark) == 0
    assert pixels.psnr(dark, dark) == math.inf and pixels.ssim(dark, dark) == pytest.approx(1)


@pytest.mark.parametrize(("output", "reference"), PAIRS)
def test_psnr_and_ssim_are_scikit_images(output: Image.Image, reference: Image.Image) -> None:
    metrics = pytest.importorskip("skimage.metrics")
    wanted = np.asarray(reference).astype(np.float32) / 255
    near = wanted + np.random.default_rng(0).normal(0, 0.05, wanted.shape)
    close = Image.fromarray((near.clip(0, 1) * 255).astype(np.uint8))
    for made in (output, close):
        array = np.asarray(made.resize(reference.size)).astype(np.float32) / 255
        options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1}
        similarity = metrics.structural_similarity(array, wanted, channel_axis=-1, **options)
        assert pixels.ssim(made, reference) == pytest.approx(similarity, abs=1e-5)
        ratio = metrics.peak_signal_noise_ratio(wanted, array, data_range=1)
        assert pixels.psnr(made, reference) == pytest.approx(ratio, abs=1e-4)


def test_a_picture_smaller_than_ssims_window_is_refused() -> None:
    assert 0 < pixels.ssim(photo(11, 30, 0), photo(11, 30, 1)) < 1
    with pytest.raises(ValueError, match="found a picture of 10 x 30 pixels; give SSIM at least 11 x 11"):
        pixels.ssim(photo(10, 30, 0), photo(10, 30, 1))


def test_what_differs_only_inside_the_mask_does_not_count() -> None:
    reference = np.asarray(photo(40, 30, 0))
    mask = np.zeros((30, 40), np.uint8)
    mask[5:15, 10:30] = 255
    output = np.where(mask[..., None] > 0, 255 - reference, reference)
    assert pixels.l1(output, reference) > 0.05
    assert pixels.l1(pixels.outside(output, mask), pixels.outside(reference, mask)) == 0
    output[0, 0] ^= 255
    expected = np.abs(output[0, 0].astype(float) - reference[0, 0]).sum() / 255 / reference.size
    assert pixels.l1(pixels.outside(output, mask), pixels.outside(reference, mask)) == pytest.approx(expected)


def test_a_mask_is_thresholded() -> None:
    white = Image.new("RGB", (4, 1), "white")
    mask = np.array([[0, 127, 128, 255]], np.uint8)
    kept = [255, 255, 0, 0]
    for given in (mask, mask >= 128, Image.fromarray(mask), Image.fromarray(mask).convert("RGB")):
        assert np.asarray(pixels.outside(white, given))[0, :, 1].tolist() == kept


def test_a_mask_saved_as_jpeg_covers_its_region() -> None:
    mask = np.zeros((32, 48), np.uint8)
    mask[5:21, 11:30] = 255
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "JPEG", quality=75)
    read = Image.open(file)
    assert 0 < np.asarray(read)[mask == 0].max() < 128, "the file has no artifacts to leave out"
    kept = np.asarray(pixels.outside(Image.new("RGB", (48, 32), "white"), read))[..., 0]
    assert np.array_equal(kept == 0, mask > 0)


def test_a_picture_of_another_size_is_resized_before_it_is_masked() -> None:
    picture, mask = photo(50, 70, 0), np.zeros((30, 40), np.uint8)
    mask[:, :20] = 255
    masked = np.asarray(pixels.outside(picture, mask))
    assert masked.shape == (30, 40, 3) and not masked[:, :20].any()
    assert np.array_equal(masked[:, 20:], np.asarray(picture.resize((40, 30), Image.Resampling.BICUBIC))[:, 20:])


@pytest.mark.parametrize("mask", [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.float32)])
def test_other_masks_are_refused(mask: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"found a mask .* give uint8 or bool \[H, W\]"):
        pixels.outside(photo(4, 4, 0), mask)
