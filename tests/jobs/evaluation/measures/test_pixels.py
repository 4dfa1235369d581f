"""Pixel errors are MagicBrush's and scikit-image's, on pairs of any sizes, and outside a mask."""

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


def test_what_differs_only_where_nothing_is_kept_does_not_count() -> None:
    reference = np.asarray(photo(40, 30, 0))
    kept = torch.ones(30, 40)
    kept[5:15, 10:30] = 0
    output = np.where(kept[..., None].numpy() > 0, reference, 255 - reference)
    assert pixels.l1(output, reference) > 0.05
    assert pixels.l1(output, reference, kept) == 0 == pixels.l2(output, reference, kept)
    assert pixels.psnr(output, reference, kept) == math.inf and pixels.ssim(output, reference, kept) == pytest.approx(1)
    output[0, 0] ^= 255
    expected = np.abs(output[0, 0].astype(float) - reference[0, 0]).sum() / 255 / reference.size
    assert pixels.l1(output, reference, kept) == pytest.approx(expected)
    kept[0, 0] = 0.25
    assert pixels.l1(output, reference, kept) == pytest.approx(expected / 4)


def test_an_output_of_another_size_is_resized_before_it_is_masked() -> None:
    output, reference = photo(50, 70, 0), photo(40, 30, 1)
    kept = torch.rand(30, 40, generator=torch.Generator().manual_seed(0))
    fitted = np.asarray(output.resize((40, 30), Image.Resampling.BICUBIC)) / 255.0
    errors = (fitted - np.asarray(reference) / 255.0) * kept.numpy()[..., None]
    assert pixels.l2(output, reference, kept) == pytest.approx((errors**2).mean(), rel=1e-5)
