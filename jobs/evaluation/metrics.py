"""What an edited picture is worth in numbers: errors inside and outside the edit, likenesses, intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

MOST_DB = 60.0
"""PSNR of equal pictures, which has no number; rounding to 8 bits alone leaves 59."""
RESAMPLES = 2000
MOST_DRAWN = 500_000
"""Cases that a bootstrap draws at once, which bounds its memory."""


@dataclass(frozen=True)
class PixelScores:
    """Errors of B edited pictures, each [B]; NaN where there are no such pixels."""

    l1: Tensor
    """Mean absolute error, of 1."""
    l1_inside: Tensor
    l1_outside: Tensor
    psnr_inside: Tensor
    """dB."""
    psnr_outside: Tensor


@dataclass(frozen=True)
class Interval:
    """A mean and where it lies with 95 % certainty."""

    mean: float
    low: float
    high: float
    count: int


UNKNOWN = Interval(mean=float("nan"), low=float("nan"), high=float("nan"), count=0)
"""Nothing was measured."""


def edit_mask(source: Tensor, target: Tensor, grow: int = 2) -> Tensor:
    """Where an edit changes its picture, and `grow` pixels around: uint8 [B, S, S, 3] twice to bool [B, S, S]."""
    changed = (source != target).any(dim=-1)
    return F.max_pool2d(changed[:, None].float(), 2 * grow + 1, stride=1, padding=grow)[:, 0] > 0


def pixel_scores(edited: Tensor, target: Tensor, mask: Tensor) -> PixelScores:
    """Compare uint8 [B, S, S, 3] pictures with their targets, apart inside and outside bool [B, S, S] masks."""
    errors = (edited.float() - target.float()) / 255
    absolute, squared = errors.abs().mean(dim=-1), errors.square().mean(dim=-1)
    return PixelScores(
        l1=absolute.mean(dim=(1, 2)),
        l1_inside=_mean_where(absolute, mask),
        l1_outside=_mean_where(absolute, ~mask),
        psnr_inside=psnr(_mean_where(squared, mask)),
        psnr_outside=psnr(_mean_where(squared, ~mask)),
    )


def l1_where(edited: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute error, of 1, of the pixels in bool [B, S, S] masks; [B], NaN where a mask is empty."""
    return _mean_where((edited.float() - target.float()).abs().mean(dim=-1) / 255, mask)


def psnr(squared_error: Tensor) -> Tensor:
    """Of mean squared errors of pixels in [0, 1], in dB, at most `MOST_DB`."""
    return (-10 * torch.log10(squared_error)).clamp(max=MOST_DB)


def perceptual_distance(features: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    """How far two lists of feature maps [B, C_l, h_l, w_l] lie apart, [B]: 0 for equal ones.

    Source: LPIPS (arXiv 1801.03924) without its learned weights: channels of unit length, squared differences.
    """
    apart = [
        (F.normalize(one.float(), dim=1) - F.normalize(other.float(), dim=1)).square().sum(dim=1).mean(dim=(1, 2))
        for one, other in zip(features, others, strict=True)
    ]
    return torch.stack(apart).mean(dim=0)


def likeness(embeddings: Tensor, others: Tensor) -> Tensor:
    """Cosines of [B, D] and [B, D], [B]."""
    return F.cosine_similarity(embeddings.float(), others.float(), dim=-1)


def interval(values: Sequence[float] | np.ndarray, seed: int = 0) -> Interval:
    """Mean and 95 % bootstrap interval of values, those that are NaN left out; NaN if there are none."""
    known = np.asarray(values, np.float64)
    known = known[~np.isnan(known)]
    if len(known) == 0:
        return UNKNOWN
    low, high = np.quantile(_resampled(known[None], seed), (0.025, 0.975))
    return Interval(mean=float(known.mean()), low=float(low), high=float(high), count=len(known))


def ratio(values: Sequence[float] | np.ndarray, references: Sequence[float] | np.ndarray, seed: int = 0) -> Interval:
    """Mean of values over the mean of as many references, with the 95 % interval of a bootstrap that draws both of a
    case together; cases in which either is NaN are left out. NaN if the references' mean is 0."""
    pairs = np.array([values, references], np.float64)
    pairs = pairs[:, ~np.isnan(pairs).any(axis=0)]
    if not pairs[1].any():
        return UNKNOWN
    ours, theirs = _resampled(pairs, seed)
    low, high = np.quantile(ours[theirs > 0] / theirs[theirs > 0], (0.025, 0.975))
    mean = float(pairs[0].mean() / pairs[1].mean())
    return Interval(mean=mean, low=float(low), high=float(high), count=pairs.shape[1])


def _resampled(columns: np.ndarray, seed: int) -> np.ndarray:
    """Means of float [C, N] over `RESAMPLES` draws of N cases each, [C, RESAMPLES]."""
    count, rng = columns.shape[1], np.random.default_rng(seed)
    at_once = max(1, MOST_DRAWN // count)
    sizes = [min(at_once, RESAMPLES - first) for first in range(0, RESAMPLES, at_once)]
    return np.concatenate([columns[:, rng.integers(count, size=(size, count))].mean(axis=2) for size in sizes], axis=1)


def _mean_where(values: Tensor, mask: Tensor) -> Tensor:
    """[B, S, S] -> [B]; NaN where a mask is empty."""
    return torch.where(mask, values, 0).sum(dim=(1, 2)) / mask.sum(dim=(1, 2))
