"""Corruption of images as by an imperfect editor, for a judge that must read them nevertheless."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fireedit.jobs.evaluation.scene_reader import STRIDE


def corrupted(pictures: Tensor, share: float) -> Tensor:
    """Corrupt a share of the images.

    Each image is, at random: blurred, blended with a shifted or another image, shifted in its colors, noisy, and
    speckled, which changes single cells of the editor's latents like noise or a wrong copy.

    Args:
        pictures: [N, 3, S, S] in [-1, 1]; each may be blended with the one before it.
    """
    count, side = len(pictures), pictures.shape[-1]

    def uniform(*shape: int) -> Tensor:
        return torch.rand(count, *shape, device=pictures.device)

    def amount(chance: float, most: float) -> Tensor:
        return (uniform(1, 1, 1) < chance) * most * uniform(1, 1, 1)

    shift = torch.randint(-2, 3, (2,)).tolist()
    displacement = (STRIDE * torch.randint(1, side // STRIDE, (2,))).tolist()
    x = torch.lerp(pictures, _blurred(pictures), amount(0.3, 0.7))
    x = torch.lerp(x, pictures.roll(shift, (2, 3)), amount(0.2, 0.3))
    x = torch.lerp(x, pictures.roll(1, 0), amount(0.2, 0.12))
    x = x * (1 + 0.06 * (2 * uniform(3, 1, 1) - 1)) + 0.04 * (2 * uniform(3, 1, 1) - 1)
    cells = (side // STRIDE, side // STRIDE)
    speckled_cells, wrong_cells = (_upsampled((uniform(1, *cells) < amount(0.4, most)).float()) for most in (0.1, 0.04))
    speckles = torch.randn(count, 3, *cells, device=x.device) * amount(1, 0.7)
    noise = torch.randn(x.shape, device=x.device)  # randn_like is slow for channels_last
    x = x + speckled_cells * _upsampled(speckles) + (amount(0.5, 0.1) + speckled_cells * amount(1, 0.5)) * noise
    x = torch.where(wrong_cells > 0, pictures.roll(displacement, (2, 3)), x)
    return torch.where(uniform(1, 1, 1) < share, x.clamp(-1, 1), pictures)


def noisy(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Add Gaussian noise of standard deviation 8 to uint8 images."""
    return (pictures + 8 * torch.randn(pictures.shape, generator=generator)).clamp(0, 255).to(torch.uint8)


def speckled(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Add Gaussian noise of standard deviation 50 to one in 25 cells of uint8 images [N, S, S, 3]."""
    cells = torch.rand(len(pictures), *(side // STRIDE for side in pictures.shape[1:3]), generator=generator) < 0.04
    chosen = cells.repeat_interleave(STRIDE, 1).repeat_interleave(STRIDE, 2)[..., None]
    return (pictures + 50 * chosen * torch.randn(pictures.shape, generator=generator)).clamp(0, 255).to(torch.uint8)


def _blurred(pictures: Tensor) -> Tensor:
    """Blur with the kernel 1 2 1 in both directions."""
    padded = F.pad(pictures, (1, 1, 1, 1), mode="replicate")
    across = (padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]) / 4
    return (across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]) / 4


def _upsampled(cells: Tensor) -> Tensor:
    """Repeat cells [N, C, h, w] to pixels [N, C, S, S], `STRIDE` a cell."""
    return cells.repeat_interleave(STRIDE, 2).repeat_interleave(STRIDE, 3)
