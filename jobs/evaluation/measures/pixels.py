"""Pixel errors of an edited picture against its reference: L1, L2, PSNR and SSIM, also outside an edited region.

Each is one float for one pair. An output of another size than its reference is first resized to it, bicubic. Values
are in [0, 1]. `kept`, float [H, W] of the reference's size, multiplies the pixels of both pictures, for measures of
what an edit should leave as it was; pixels that it sets to 0 count in the means.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fireedit.jobs.evaluation.measures.preprocessing import Picture, as_pair

SSIM_SIGMA, SSIM_RADIUS = 1.5, 5
"""Standard deviation in pixels of SSIM's Gaussian window, and the pixels to each side at which it is cut off."""
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2


def l1(output: Picture, reference: Picture, kept: Tensor | None = None) -> float:
    """Mean absolute difference, MagicBrush's L1 (arXiv 2306.10012, evaluation/image_eval.py)."""
    return F.l1_loss(*as_pair(output, reference, kept)).item()


def l2(output: Picture, reference: Picture, kept: Tensor | None = None) -> float:
    """Mean squared difference without a root, MagicBrush's L2 and ReasonEdit's MSE (arXiv 2312.06739)."""
    return F.mse_loss(*as_pair(output, reference, kept)).item()


def psnr(output: Picture, reference: Picture, kept: Tensor | None = None) -> float:
    """Peak signal-to-noise ratio in dB; infinite for equal pictures."""
    error = l2(output, reference, kept)
    return -10 * math.log10(error) if error else math.inf


def ssim(output: Picture, reference: Picture, kept: Tensor | None = None) -> float:
    """Structural similarity, the mean over channels and over pixels whose window lies within the picture.

    Source: Wang et al. 2004 (10.1109/TIP.2003.819861) with a Gaussian window; the values of scikit-image's
    `structural_similarity` with `gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1`.
    torchmetrics, with which ReasonEdit is measured, also counts the border, reflected: up to 0.01 of difference.

    Raises:
        ValueError: a side of the reference is shorter than the window.
    """
    pair = as_pair(output, reference, kept)
    height, width = pair[0].shape[1:]
    side = 2 * SSIM_RADIUS + 1
    if min(height, width) < side:
        raise ValueError(f"found a picture of {width} x {height} pixels; give SSIM at least {side} x {side}")
    first, second = (pixels.double() for pixels in pair)
    moments = torch.stack([first, second, first * first, second * second, first * second])
    mean, other, square, other_square, product = _windowed(moments)
    likeness = (2 * mean * other + SSIM_C1) / (mean**2 + other**2 + SSIM_C1)
    variances = square - mean**2 + other_square - other**2
    return (likeness * (2 * (product - mean * other) + SSIM_C2) / (variances + SSIM_C2)).mean().item()


def _windowed(planes: Tensor) -> Tensor:
    """Weighted means of [N, C, H, W] under the Gaussian window, [N, C, H - 2 r, W - 2 r]."""
    offsets = torch.arange(-SSIM_RADIUS, SSIM_RADIUS + 1, dtype=planes.dtype)
    weights = torch.exp(-((offsets / SSIM_SIGMA) ** 2) / 2)
    weights = weights / weights.sum()
    columns = F.conv2d(planes.flatten(0, 1)[:, None], weights[None, None, :, None])
    return F.conv2d(columns, weights[None, None, None, :])[:, 0].unflatten(0, planes.shape[:2])
