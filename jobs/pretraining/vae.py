"""The VAE at nano size: everybody's ceiling, so it must beat what a linear code of as many numbers keeps."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from PIL import Image
from torch import Tensor, nn

from fireedit.jobs.pretraining.loop import PretrainRecipe
from fireedit.jobs.pretraining.scenes import HELD_OUT, held_out_batches, training_batches
from fireedit.models.fireedit import FireEditConfig
from fireedit.models.vae import build_vae
from fireedit.platform.data.scenes.families import make_edit
from fireedit.platform.data.scenes.render import Renderer
from fireedit.platform.data.scenes.world import TRAIN
from fireedit.platform.sheet import Panel, sheet

HELD_OUT_SCENES = 512
PCA_SCENES = 2048
"""Whose patches the linear code is fitted to."""
SHOWN = 12
FIRST_LOGVAR = -6.0
"""Of the latents, about, before anything is learnt."""


@dataclass(frozen=True, kw_only=True)
class VAERecipe(PretrainRecipe):
    kl_weight: float = 1e-4
    """Beside the squared error of a pixel in [-1, 1], both summed: about twice the noise a latent number can bear."""
    l1_weight: float = 0.1
    """Of the absolute error beside the squared one, which alone blurs."""


class VAEPart:
    """AutoencoderKL on source and target of edits drawn from the world of training."""

    name = "vae"

    def __init__(self, sizes: FireEditConfig, recipe: VAERecipe, out: Path):
        self.config, self.recipe = sizes.vae, recipe
        vae = build_vae(sizes.vae).to(memory_format=torch.channels_last)
        for block in vae.modules():  # nearly linear at first: 17.4 instead of 16.8 dB after 600 steps
            if isinstance(block, ResnetBlock2D):
                nn.init.zeros_(block.conv2.weight)
                nn.init.zeros_(block.conv2.bias)
        with torch.no_grad():  # little noise at first, or it would drown what the encoder does not say loudly yet
            vae.quant_conv.bias[sizes.vae.latent_channels :] += FIRST_LOGVAR
        self.model: nn.Module = vae

    def batches(self, first: int, last: int) -> Iterable[Mapping[str, Tensor]]:
        assert self.recipe.batch % 2 == 0, self.recipe.batch
        return training_batches(self._pair, first, last, self.recipe.batch // 2, self.recipe.workers)

    def losses(self, model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        assert isinstance(model, AutoencoderKL)
        pictures = _signed(batch)
        latents = model.encode(pictures).latent_dist
        errors = (model.decode(latents.sample()).sample - pictures).float()
        squared, absolute = errors.square().mean(), errors.abs().mean()
        kl = latents.kl().mean() / pictures[0].numel()
        loss = squared + self.recipe.l1_weight * absolute + self.recipe.kl_weight * kl
        return {"loss": loss, "mse": squared, "l1": absolute, "kl": kl}

    def figures(self, model: nn.Module) -> dict[str, float]:
        """PSNR in dB over all pixels of held-out sources and targets, beside PCA of patches to as many numbers."""
        pictures = torch.cat([_signed(batch) for batch in held_out_batches(self._pair, HELD_OUT_SCENES, 32)])
        errors = [(reconstructed(model, part) - part).square().mean() for part in pictures.split(32)]
        draw = Renderer()
        seeds = range(TRAIN.seeds[0], TRAIN.seeds[PCA_SCENES])
        fitted = torch.cat([_signed(torch.utils.data.default_collate([self._pair(draw, seed)])) for seed in seeds])
        factor = self.config.sample_size // self.config.moments_shape[1]
        return {
            "psnr_db": _psnr(torch.stack(errors).mean()),
            "pca_psnr_db": _psnr(_pca_error(fitted, pictures, factor, self.config.latent_channels)),
            "parameters": float(sum(parameter.numel() for parameter in model.parameters())),
        }

    def look(self, model: nn.Module) -> Image.Image:
        """Held-out pictures above their reconstructions."""
        pictures = torch.cat([_signed(batch)[:1] for batch in held_out_batches(self._pair, SHOWN, 1)])
        rows = [pictures[: SHOWN // 2], reconstructed(model, pictures[: SHOWN // 2])]
        rows += [pictures[SHOWN // 2 :], reconstructed(model, pictures[SHOWN // 2 :])]
        titles = ("picture", "VAE") * 2
        panels = [
            Panel(image=_pixels(one), title=title) for row, title in zip(rows, titles, strict=True) for one in row
        ]
        return sheet(panels, columns=SHOWN // 2, height=128)

    def save(self, model: nn.Module, folder: Path) -> None:
        """With the scaling factor that gives latents unit variance."""
        assert isinstance(model, AutoencoderKL)
        latents = torch.cat(
            [model.encode(_signed(batch)).latent_dist.mode() for batch in held_out_batches(self._pair, 64, 32)]
        )
        model.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
        model.half().save_pretrained(folder / "vae")

    def _pair(self, renderer: Renderer, seed: int) -> dict[str, Tensor]:
        edit = make_edit(TRAIN if seed in TRAIN.seeds else HELD_OUT, seed)
        side = self.config.sample_size
        drawn = [renderer.draw(scene, side).image for scene in (edit.source, edit.target)]
        return {"pictures": torch.from_numpy(np.stack(drawn))}


def reconstructed(model: Any, pictures: Tensor) -> Tensor:
    return model.decode(model.encode(pictures).latent_dist.mode()).sample.clamp(-1, 1)


def _signed(batch: Mapping[str, Tensor]) -> Tensor:
    """uint8 [B, 2, S, S, 3] to [2 B, 3, S, S] in [-1, 1]."""
    pictures = batch["pictures"].flatten(0, 1).permute(0, 3, 1, 2)
    return (pictures.float() / 127.5 - 1).to(memory_format=torch.channels_last)


def _pixels(picture: Tensor) -> np.ndarray:
    return ((picture.permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255).byte().cpu().numpy()


def _psnr(squared_error: Tensor) -> float:
    """Of pixels in [-1, 1]."""
    return round(float(10 * torch.log10(4 / squared_error)), 2)


def _pca_error(fitted: Tensor, pictures: Tensor, factor: int, numbers: int) -> Tensor:
    """Mean squared error of pictures whose patches are told by their first principal components."""
    known, asked = (
        F.unfold(images, factor, stride=factor).transpose(1, 2).flatten(0, 1) for images in (fitted, pictures)
    )
    mean = known.mean(dim=0)
    _, _, axes = torch.pca_lowrank(known - mean, q=numbers, center=False, niter=6)
    return (asked - mean - (asked - mean) @ axes @ axes.T).square().mean()
