"""Random numbers of the denoising loss, drawn for each sample from a seed of its own.

A sample then has the same noise, timestep and condition dropout in any batch and on any device.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from fireedit.models.layers.device import to_device


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Random numbers of B samples."""

    noise: Tensor
    """Standard normal, float32 [B, C, h, w]: noise of the diffusion."""
    target_noise: Tensor
    """Standard normal, float32 [B, C, h, w]: deviation of the target's latents from the VAE's mean."""
    uniform: Tensor
    """float64 [B, 3] in [0, 1), for the timestep, for its being the last one, and for the condition dropout."""

    @classmethod
    def of_seeds(cls, seeds: Tensor, shape: Sequence[int]) -> Self:
        """Draw on the CPU.

        Args:
            seeds: int64 [B], of the samples.
            shape: of one sample's latents, [C, h, w].
        """
        normal, uniform = torch.empty(2, len(seeds), *shape), torch.empty(len(seeds), 3, dtype=torch.float64)
        for index, seed in enumerate(seeds.tolist()):
            generator = torch.Generator().manual_seed(seed)
            uniform[index].uniform_(generator=generator)
            normal[:, index] = torch.randn(2, *shape, generator=generator)
        return cls(noise=normal[0], target_noise=normal[1], uniform=uniform)

    def to(self, device: torch.device) -> Self:
        return type(self)(**{name: to_device(tensor, device) for name, tensor in vars(self).items()})


def sample_seeds(seed: int, numbers: Sequence[int]) -> Tensor:
    """Compute the seeds, int64 [B], of the samples that are draws number `numbers` of a run with this seed."""
    return torch.tensor([zlib.crc32(f"{seed} {number}".encode()) for number in numbers])
