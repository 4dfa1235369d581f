"""VAE, or a lossless codec in its place: pixels to moments, moments to latents, latents to images.

Pixels are uint8 RGB [B, S, S, 3]. Moments are mean and log variance of the latents, float32 [B, 2 C, h, w], half
precision where a job has stored them. Latents are float32 whatever the precision of the VAE's weights: in bfloat16 the
noise of the first timesteps would be lost.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ModelMixin
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch import Tensor

from fireedit.models.layers.component import Component, FromSizes
from fireedit.models.layers.invariant import make_invariant

CERTAIN = -30.0
"""Log variance of deterministic latents."""


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    sample_size: int = 512
    """Side of the image that is edited, pixels."""
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",) * 4
    up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",) * 4
    layers_per_block: int = 2
    latent_channels: int = 4
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215
    """Factor that gives target latents unit variance."""

    @property
    def moments_shape(self) -> tuple[int, int, int]:
        """Shape of one image's moments, [2 C, h, w]."""
        side = self.sample_size // 2 ** (len(self.block_out_channels) - 1)
        return 2 * self.latent_channels, side, side


class EditVAE(FromSizes, AutoencoderKL, ModelMixin):
    """Stable Diffusion's VAE. Source: Rombach et al. (arXiv 2112.10752)."""

    config_class = VAEConfig

    def __init__(self, config: VAEConfig):
        super().__init__(**asdict(config))
        make_invariant(self)


@dataclass(frozen=True, kw_only=True)
class PatchCodecConfig:
    """Sizes of the codec of the small model."""

    patch_size: int
    """Side of the square of pixels that makes one cell of the latents."""
    sample_size: int = 64
    """Side of the image that is edited, pixels."""
    scale: float = 1.7
    """Factor on pixels in [-1, 1]; gives latents of drawn scenes unit variance."""
    scaling_factor: float = 1.0
    """Factor of target latents, 1: they have unit variance already."""

    @property
    def latent_channels(self) -> int:
        return 3 * self.patch_size**2

    @property
    def moments_shape(self) -> tuple[int, int, int]:
        """Shape of one image's moments, [2 C, h, w]."""
        side = self.sample_size // self.patch_size
        return 2 * self.latent_channels, side, side


class PatchCodec(Component, ModelMixin):
    """Lossless codec: the pixels of each patch are the channels of one cell of the latents.

    Has a VAE's interface; its distributions have no variance.
    """

    config_class = PatchCodecConfig
    latent_scale: Tensor

    def __init__(self, config: PatchCodecConfig):
        super().__init__(config)
        self.register_buffer("latent_scale", torch.tensor(config.scale))

    def encode(self, images: Tensor) -> AutoencoderKLOutput:
        """Map images [B, 3, S, S] in [-1, 1] to the distribution of latents [B, 3 P P, S / P, S / P]."""
        latents = F.pixel_unshuffle(images, self.config.patch_size) * self.latent_scale
        parameters = torch.cat([latents, torch.full_like(latents, CERTAIN)], dim=1)
        return AutoencoderKLOutput(latent_dist=DiagonalGaussianDistribution(parameters))

    def decode(self, latents: Tensor) -> DecoderOutput:
        """Map latents to images [B, 3, S, S]."""
        return DecoderOutput(sample=F.pixel_shuffle(latents / self.latent_scale, self.config.patch_size))


Codec = EditVAE | PatchCodec
"""Maps images to latents and back."""


def build_vae(config: VAEConfig | PatchCodecConfig) -> Codec:
    return PatchCodec(config) if isinstance(config, PatchCodecConfig) else EditVAE(config)


def load_vae(folder: str | os.PathLike[str]) -> Codec:
    """Load the VAE or codec saved in a folder, frozen, in float32."""
    name = json.loads((Path(folder) / "config.json").read_text()).get("_class_name")
    kind = PatchCodec if name == PatchCodec.__name__ else EditVAE
    return kind.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)


def encode_pixels(vae: Codec, pixels: Tensor) -> Tensor:
    """Encode uint8 RGB [B, S, S, 3] to moments [B, 2 C, h, w]."""
    assert pixels.dtype == torch.uint8 and pixels.shape[-1] == 3, (pixels.dtype, pixels.shape)
    images = (pixels.permute(0, 3, 1, 2).float() / 127.5 - 1).to(vae.dtype)
    return vae.encode(images).latent_dist.parameters.float()


def source_latents(moments: Tensor) -> Tensor:
    """Compute latents [B, C, h, w] of the source: the mode, *not* scaled, as InstructPix2Pix's weights were trained."""
    return _distribution(moments).mode()


def target_latents(vae: Codec, moments: Tensor, noise: Tensor) -> Tensor:
    """Compute latents [B, C, h, w] of the target, the diffusion model's clean latents: a scaled sample.

    Args:
        noise: [B, C, h, w], standard normal: the sample's deviation from the mean.
    """
    distribution = _distribution(moments)
    return (distribution.mean + distribution.std * noise) * vae.config.scaling_factor


def keep_unchanged(sampled: Tensor, source: Tensor, below: float) -> Tensor:
    """Draw sampled latents back to the source's where they hardly differ.

    Where an edit changes nothing, the sampled latents are the source's plus some noise; this removes the noise. A cell
    at mean square distance d of the source keeps d / `below` of its change, and all of it from `below` on.
    Source: the mask of DiffEdit (arXiv 2210.11427), here soft and on latents.

    Args:
        sampled, source: [B, C, h, w], both scaled.
    """
    change = sampled - source
    distance = change.square().mean(dim=1, keepdim=True)
    return source + change * (distance / max(below, 1e-12)).clamp(max=1)


class NotFiniteError(ValueError):
    """Values that should become a picture are NaN or infinite."""


def require_finite(values: Tensor) -> Tensor:
    """Return latents or decoded pixels as they are; NaN would pass for an edit that changes nothing, or for black.

    Raises:
        NotFiniteError: some are NaN or infinite.
    """
    if not values.isfinite().all():
        found = f"found {int((~values.isfinite()).sum())} of {values.numel()} values of a picture NaN or infinite"
        raise NotFiniteError(f"{found}; write smaller guidance scales, a higher precision, or other weights")
    return values


def changed_cells(edited: Tensor, source: Tensor, below: float) -> Tensor:
    """Find the cells, bool [B, h, w], at a mean square distance of `below` or more, as `keep_unchanged` left them."""
    return (edited - source).square().mean(dim=1) >= below


def decode_latents(vae: Codec, latents: Tensor) -> Tensor:
    """Decode scaled latents [B, C, h, w] to images [B, 3, S, S] in [-1, 1].

    Raises:
        NotFiniteError: some pixels are NaN or infinite.
    """
    return require_finite(vae.decode(latents / vae.config.scaling_factor).sample).clamp(-1, 1)


def _distribution(moments: Tensor) -> DiagonalGaussianDistribution:
    assert moments.is_floating_point(), f"moments are {moments.dtype}; encode pixels first"
    return DiagonalGaussianDistribution(moments.float())
