"""Measures of edited pictures: errors inside and outside the edit, feature similarities, bootstrap intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

MAX_DB = 60.0
"""PSNR given to equal pictures instead of infinity; rounding to 8 bits alone leaves 59."""
RESAMPLES = 2000
"""Bootstrap resamples of an interval."""
MAX_DRAWN = 500_000
"""Cases that a bootstrap draws at once, which bounds its memory."""


@dataclass(frozen=True)
class Interval:
    """Mean with its 95 % confidence interval, of `count` values."""

    mean: float
    low: float
    high: float
    count: int


UNKNOWN = Interval(mean=float("nan"), low=float("nan"), high=float("nan"), count=0)
"""Interval of no values."""


def edit_mask(source: Tensor, target: Tensor, grow: int = 2) -> Tensor:
    """Mask the pixels that an edit changes, dilated by `grow`: uint8 [B, S, S, 3] twice to bool [B, S, S]."""
    changed = (source != target).any(dim=-1)
    return F.max_pool2d(changed[:, None].float(), 2 * grow + 1, stride=1, padding=grow)[:, 0] > 0


def pixel_scores(edited: Tensor, target: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Compare uint8 [B, S, S, 3] pictures with their targets inside and outside bool [B, S, S] masks.

    Returns:
        Errors [B] by measure, L1 of values in [0, 1] and PSNR in dB; NaN where a region has no pixels.
    """
    errors = (edited.float() - target.float()) / 255
    absolute, squared = errors.abs().mean(dim=-1), errors.square().mean(dim=-1)
    scores = {"l1": absolute.mean(dim=(1, 2))}
    for name, region in (("inside", mask), ("outside", ~mask)):
        scores[f"l1_{name}"] = _mean_where(absolute, region)
        scores[f"psnr_{name}"] = (-10 * torch.log10(_mean_where(squared, region))).clamp(max=MAX_DB)
    return scores


def perceptual_distance(features: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    """Distance [B] of two lists of feature maps [B, C_l, h_l, w_l]; 0 for equal ones.

    Source: LPIPS (arXiv 1801.03924) without its learned weights: channels of unit length, squared differences.
    """
    pairs = zip(features, others, strict=True)
    differences = [F.normalize(level.float(), dim=1) - F.normalize(other.float(), dim=1) for level, other in pairs]
    return torch.stack([levels.square().sum(dim=1).mean(dim=(1, 2)) for levels in differences]).mean(dim=0)


def interval(values: Sequence[float] | np.ndarray, seed: int = 0) -> Interval:
    """Mean and 95 % bootstrap interval of the values that are not NaN; `UNKNOWN` if there are none."""
    known = np.asarray(values, np.float64)
    known = known[~np.isnan(known)]
    if len(known) == 0:
        return UNKNOWN
    low, high = np.quantile(_resampled(known[None], seed), (0.025, 0.975))
    return Interval(float(known.mean()), float(low), float(high), len(known))


def ratio(values: Sequence[float] | np.ndarray, references: Sequence[float] | np.ndarray, seed: int = 0) -> Interval:
    """Ratio of the means of values and references, with a 95 % bootstrap interval that resamples them in pairs.

    Pairs with a NaN are left out; `UNKNOWN` if the references' mean is 0.
    """
    pairs = np.array([values, references], np.float64)
    pairs = pairs[:, ~np.isnan(pairs).any(axis=0)]
    if not pairs[1].any():
        return UNKNOWN
    means, divisors = _resampled(pairs, seed)
    low, high = np.quantile(means[divisors > 0] / divisors[divisors > 0], (0.025, 0.975))
    return Interval(float(pairs[0].mean() / pairs[1].mean()), float(low), float(high), pairs.shape[1])


def _resampled(columns: np.ndarray, seed: int) -> np.ndarray:
    """Means [C, RESAMPLES] of float [C, N] over bootstrap draws of N cases each."""
    count, rng = columns.shape[1], np.random.default_rng(seed)
    at_once = max(1, MAX_DRAWN // count)
    sizes = [min(at_once, RESAMPLES - first) for first in range(0, RESAMPLES, at_once)]
    return np.concatenate([columns[:, rng.integers(count, size=(size, count))].mean(axis=2) for size in sizes], axis=1)


def _mean_where(values: Tensor, mask: Tensor) -> Tensor:
    """Average [B, S, S] within each mask to [B]; NaN where a mask is empty."""
    return torch.where(mask, values, 0).sum(dim=(1, 2)) / mask.sum(dim=(1, 2))
