"""The VAE: pictures to latents and back. Training reads pictures, or their moments if a job has stored them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self

from diffusers import AutoencoderKL, ModelMixin
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.upsampling import Upsample2D
from pydantic import TypeAdapter
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
    upsampling: Literal["nearest", "transposed"] = "nearest"
    """How the decoder grows: by copies of a cell and a convolution over them, as SD does, or by a transposed
    convolution, which says of each pixel where in its cell it lies and needs a ninth of the work."""
    scaling_factor: float = 0.18215
    """Gives target latents unit variance."""

    @property
    def moments_shape(self) -> tuple[int, int, int]:
        """What `moments` makes of one picture: [2 C, h, w]."""
        side = self.sample_size // 2 ** (len(self.block_out_channels) - 1)
        return 2 * self.latent_channels, side, side


class EditVAE(AutoencoderKL, ModelMixin):
    """Stable Diffusion's VAE, with a choice of how its decoder grows. Source: Rombach et al. (arXiv 2112.10752)."""

    def __init__(self, config: VAEConfig):
        sizes = asdict(config)
        upsampling = sizes.pop("upsampling")
        super().__init__(**sizes)
        self.register_to_config(upsampling=upsampling)
        for block in self.decoder.up_blocks:
            if upsampling == "transposed" and block.upsamplers is not None:
                width = block.upsamplers[0].channels
                grow = Upsample2D(width, use_conv_transpose=True, out_channels=width, kernel_size=2, padding=0)
                block.upsamplers[0] = grow

    @classmethod
    def from_config(cls, config: Mapping[str, Any], return_unused_kwargs: bool = False, **kwargs: Any) -> Self | Any:
        """Build from a config.json of ours or of a published VAE; entries that VAEConfig lacks are SD 1.5's."""
        known = {field.name: config[field.name] for field in fields(VAEConfig) if field.name in config}
        model = cls(TypeAdapter(VAEConfig).validate_python(known))
        return (model, kwargs) if return_unused_kwargs else model


def moments(vae: EditVAE, canvas: Tensor) -> Tensor:
    """All that the encoder says of pictures, uint8 RGB [B, S, S, 3]: mean and logvar of their latents, [B, 2 C, h, w].

    Half precision is enough to store them.
    """
    return vae.encode(_signed(vae, canvas)).latent_dist.parameters


def source_latents(vae: EditVAE, canvas: Tensor) -> Tensor:
    """Latents of the picture to edit: the mode, *not* scaled, as InstructPix2Pix's weights were trained.

    Args:
        canvas: uint8 RGB [B, S, S, 3], which is encoded, or its `moments`, any float [B, 2 C, h, w].
    Returns:
        [B, C, h, w] in the VAE's dtype.
    """
    return _distribution(vae, canvas).mode()


def target_latents(vae: EditVAE, canvas: Tensor) -> Tensor:
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


def decode_latents(vae: EditVAE, latents: Tensor) -> Tensor:
    """Painted latents [B, C, h, w] to pictures [B, 3, S, S] in [-1, 1]."""
    return vae.decode(latents / vae.config.scaling_factor).sample.clamp(-1, 1)


def _distribution(vae: EditVAE, canvas: Tensor) -> DiagonalGaussianDistribution:
    """In the VAE's dtype either way, so that pictures and stored moments draw the same random numbers."""
    stored = canvas.is_floating_point()
    return DiagonalGaussianDistribution(canvas.to(vae.dtype) if stored else moments(vae, canvas))


def _signed(vae: EditVAE, canvas: Tensor) -> Tensor:
    return (canvas.permute(0, 3, 1, 2).float() / 127.5 - 1).to(vae.dtype)
