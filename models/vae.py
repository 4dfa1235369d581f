"""The VAE: pictures to latents and back."""

from dataclasses import asdict, dataclass

from diffusers import AutoencoderKL
from torch import Tensor


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


def build_vae(config: VAEConfig) -> AutoencoderKL:
    return AutoencoderKL(**asdict(config))


def source_latents(vae: AutoencoderKL, canvas: Tensor) -> Tensor:
    """Latents of the picture to edit: the mode, *not* scaled, as InstructPix2Pix's weights were trained.

    Args:
        canvas: uint8 RGB [B, S, S, 3].
    Returns:
        [B, C, S / f, S / f].
    """
    return vae.encode(_signed(vae, canvas)).latent_dist.mode()


def target_latents(vae: AutoencoderKL, canvas: Tensor) -> Tensor:
    """Latents that the diffusion model learns to paint: a scaled sample. Shapes as in `source_latents`."""
    return vae.encode(_signed(vae, canvas)).latent_dist.sample() * vae.config.scaling_factor


def decode_latents(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Painted latents [B, C, h, w] to pictures [B, 3, S, S] in [-1, 1]."""
    return vae.decode(latents / vae.config.scaling_factor).sample.clamp(-1, 1)


def _signed(vae: AutoencoderKL, canvas: Tensor) -> Tensor:
    return (canvas.permute(0, 3, 1, 2).float() / 127.5 - 1).to(vae.dtype)
