"""Pictures spoiled as an editor may spoil them, for a judge that should read them all the same."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fireedit.jobs.evaluation.scene_reader import STRIDE


def spoiled(pictures: Tensor, share: float) -> Tensor:
    """Spoil a share of pictures as an editor may.

    Each is, by its own dice: softened, laid over a shifted or another picture's ghost, off in its colors, noisy, and
    speckled, which changes single cells of the editor's latents as noise or as a wrong copy would.

    Args:
        pictures: [N, 3, S, S] in [-1, 1]; the one before in the batch lends its ghost.
    """
    count, side = len(pictures), pictures.shape[-1]

    def dice(*shape: int) -> Tensor:
        return torch.rand(count, *shape, device=pictures.device)

    def amount(chance: float, most: float) -> Tensor:
        return (dice(1, 1, 1) < chance) * most * dice(1, 1, 1)

    ghost, elsewhere = torch.randint(-2, 3, (2,)).tolist(), (STRIDE * torch.randint(1, side // STRIDE, (2,))).tolist()
    x = torch.lerp(pictures, _softened(pictures), amount(0.3, 0.7))
    x = torch.lerp(x, pictures.roll(ghost, (2, 3)), amount(0.2, 0.3))
    x = torch.lerp(x, pictures.roll(1, 0), amount(0.2, 0.12))
    x = x * (1 + 0.06 * (2 * dice(3, 1, 1) - 1)) + 0.04 * (2 * dice(3, 1, 1) - 1)
    cells = (side // STRIDE, side // STRIDE)
    struck, wrong = (_enlarged((dice(1, *cells) < amount(0.4, most)).float()) for most in (0.1, 0.04))
    strange = torch.randn(count, 3, *cells, device=x.device) * amount(1, 0.7)
    noise = torch.randn(x.shape, device=x.device)  # not randn_like, which is slow where channels come last
    x = x + struck * _enlarged(strange) + (amount(0.5, 0.1) + struck * amount(1, 0.5)) * noise
    x = torch.where(wrong > 0, pictures.roll(elsewhere, (2, 3)), x)
    return torch.where(dice(1, 1, 1) < share, x.clamp(-1, 1), pictures)


def noisy(pictures: Tensor, dice: torch.Generator) -> Tensor:
    """Lay noise of 8 of 255 on uint8 pictures."""
    return (pictures + 8 * torch.randn(pictures.shape, generator=dice)).clamp(0, 255).to(torch.uint8)


def speckled(pictures: Tensor, dice: torch.Generator) -> Tensor:
    """Change one in 25 cells of uint8 pictures, [N, S, S, 3], by noise of 50 of 255."""
    cells = torch.rand(len(pictures), *(side // STRIDE for side in pictures.shape[1:3]), generator=dice) < 0.04
    chosen = cells.repeat_interleave(STRIDE, 1).repeat_interleave(STRIDE, 2)[..., None]
    return (pictures + 50 * chosen * torch.randn(pictures.shape, generator=dice)).clamp(0, 255).to(torch.uint8)


def _softened(pictures: Tensor) -> Tensor:
    """Mean with the four neighbors of every pixel, 1 2 1 both ways."""
    padded = F.pad(pictures, (1, 1, 1, 1), mode="replicate")
    across = (padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]) / 4
    return (across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]) / 4


def _enlarged(cells: Tensor) -> Tensor:
    """[N, C, h, w] to [N, C, S, S]: `STRIDE` pixels a cell."""
    return cells.repeat_interleave(STRIDE, 2).repeat_interleave(STRIDE, 3)
