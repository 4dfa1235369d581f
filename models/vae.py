"""Pictures to latents and back: the VAE, or a lossless codec in its place.

Training reads pictures, or their moments if a job has stored them.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ModelMixin
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from pydantic import TypeAdapter
from torch import Tensor

from fireedit.models.layers.component import Component

CERTAIN = -30.0
"""Log variance of latents that are not random."""


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    sample_size: int = 512
    """Side of the canvas that is edited, pixels."""
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",) * 4
    up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",) * 4
    layers_per_block: int = 2
    latent_channels: int = 4
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215
    """Gives target latents unit variance."""

    @property
    def moments_shape(self) -> tuple[int, int, int]:
        """What `moments` makes of one picture: [2 C, h, w]."""
        side = self.sample_size // 2 ** (len(self.block_out_channels) - 1)
        return 2 * self.latent_channels, side, side


class EditVAE(AutoencoderKL, ModelMixin):
    """Stable Diffusion's VAE. Source: Rombach et al. (arXiv 2112.10752)."""

    def __init__(self, config: VAEConfig):
        super().__init__(**asdict(config))

    @classmethod
    def from_config(cls, config: Mapping[str, Any], return_unused_kwargs: bool = False, **kwargs: Any) -> Self | Any:
        """Build from a config.json of ours or of a published VAE; entries that VAEConfig lacks are SD 1.5's."""
        known = {field.name: config[field.name] for field in fields(VAEConfig) if field.name in config}
        model = cls(TypeAdapter(VAEConfig).validate_python(known))
        return (model, kwargs) if return_unused_kwargs else model


@dataclass(frozen=True, kw_only=True)
class PatchCodecConfig:
    patch_size: int
    """Side of the square of pixels that becomes one cell of the latents."""
    sample_size: int = 64
    """Side of the canvas that is edited, pixels."""
    scale: float = 1.7
    """Of pixels in [-1, 1]; gives latents of drawn scenes unit variance."""
    scaling_factor: float = 1.0
    """The latents have unit variance already."""

    @property
    def latent_channels(self) -> int:
        return 3 * self.patch_size**2

    @property
    def moments_shape(self) -> tuple[int, int, int]:
        """What `moments` makes of one picture: [2 C, h, w]."""
        side = self.sample_size // self.patch_size
        return 2 * self.latent_channels, side, side


class PatchCodec(Component, ModelMixin):
    """The pixels of each patch as the channels of one cell: latents of a small picture without a VAE, losing nothing.

    It has a VAE's interface, so that it stands wherever one does; its distributions have no variance.
    """

    config_class = PatchCodecConfig
    latent_scale: Tensor

    def __init__(self, config: PatchCodecConfig):
        super().__init__(config)
        self.register_buffer("latent_scale", torch.tensor(config.scale))

    def encode(self, pictures: Tensor) -> AutoencoderKLOutput:
        """[B, 3, S, S] in [-1, 1] to the distribution of latents [B, 3 P P, S / P, S / P]."""
        latents = F.pixel_unshuffle(pictures, self.config.patch_size) * self.latent_scale
        parameters = torch.cat([latents, torch.full_like(latents, CERTAIN)], dim=1)
        return AutoencoderKLOutput(latent_dist=DiagonalGaussianDistribution(parameters))

    def decode(self, latents: Tensor) -> DecoderOutput:
        """Latents to pictures [B, 3, S, S]."""
        return DecoderOutput(sample=F.pixel_shuffle(latents / self.latent_scale, self.config.patch_size))


Codec = EditVAE | PatchCodec
"""Whatever stands between pictures and latents."""


def build_vae(config: VAEConfig | PatchCodecConfig) -> Codec:
    return PatchCodec(config) if isinstance(config, PatchCodecConfig) else EditVAE(config)


def load_vae(folder: str | os.PathLike[str]) -> Codec:
    """The VAE or the codec that lies saved in a folder, in float32, to be run and not trained."""
    name = json.loads((Path(folder) / "config.json").read_text()).get("_class_name")
    kind = PatchCodec if name == PatchCodec.__name__ else EditVAE
    return kind.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)


def moments(vae: Codec, canvas: Tensor) -> Tensor:
    """All that the encoder says of pictures, uint8 RGB [B, S, S, 3]: mean and logvar of their latents, [B, 2 C, h, w].

    Half precision is enough to store them.
    """
    return vae.encode(_signed(vae, canvas)).latent_dist.parameters


def source_latents(vae: Codec, canvas: Tensor) -> Tensor:
    """Latents of the picture to edit: the mode, *not* scaled, as InstructPix2Pix's weights were trained.

    Args:
        canvas: uint8 RGB [B, S, S, 3], which is encoded, or its `moments`, any float [B, 2 C, h, w].
    Returns:
        [B, C, h, w] in the VAE's dtype.
    """
    return _distribution(vae, canvas).mode()


def target_latents(vae: Codec, canvas: Tensor) -> Tensor:
    """Latents that the diffusion model learns to paint: a scaled sample. Shapes as in `source_latents`."""
    return _distribution(vae, canvas).sample() * vae.config.scaling_factor


def keep_unchanged(painted: Tensor, source: Tensor, below: float) -> Tensor:
    """Painted latents, drawn back to the source's wherever they hardly left them.

    Where an edit changes nothing, what was painted is the source and some noise; this takes the noise away. A cell at
    mean square distance d of the source keeps d / `below` of its change, and all of it from `below` on.
    Source: the mask of DiffEdit (arXiv 2210.11427), here without a border, laid over latents.

    Args:
        painted, source: [B, C, h, w], both scaled.
    """
    change = painted - source
    distance = change.square().mean(dim=1, keepdim=True)
    return source + change * (distance / max(below, 1e-12)).clamp(max=1)


def decode_latents(vae: Codec, latents: Tensor) -> Tensor:
    """Painted latents [B, C, h, w] to pictures [B, 3, S, S] in [-1, 1]."""
    return vae.decode(latents / vae.config.scaling_factor).sample.clamp(-1, 1)


def _distribution(vae: Codec, canvas: Tensor) -> DiagonalGaussianDistribution:
    """In the VAE's dtype either way, so that pictures and stored moments draw the same random numbers."""
    stored = canvas.is_floating_point()
    return DiagonalGaussianDistribution(canvas.to(vae.dtype) if stored else moments(vae, canvas))


def _signed(vae: Codec, canvas: Tensor) -> Tensor:
    return (canvas.permute(0, 3, 1, 2).float() / 127.5 - 1).to(vae.dtype)
