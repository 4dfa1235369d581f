"""The VAE at nano size: everybody's ceiling, so it must beat what a linear code of as many numbers keeps."""

import functools
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import default_collate

from fireedit.jobs.pretraining.loop import PretrainRecipe
from fireedit.jobs.pretraining.saved import fill
from fireedit.jobs.pretraining.scenes import HELD_OUT, held_out_batches, training_batches
from fireedit.models.fireedit import FireEditConfig
from fireedit.models.vae import EditVAE
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
    decoder_only: bool = False
    """Leave the latents as they are, for the UNet that has learnt to paint them."""


class VAEPart:
    """EditVAE on source and target of edits drawn from the world of training."""

    name = "vae"

    def __init__(self, sizes: FireEditConfig, recipe: VAERecipe, out: Path):
        self.config, self.recipe = sizes.vae, recipe
        vae = EditVAE(sizes.vae)
        start_as_pca(vae, self._fitted())
        if recipe.decoder_only:
            vae.encoder.requires_grad_(False)
            vae.quant_conv.requires_grad_(False)
        self.model: nn.Module = vae.to(memory_format=torch.channels_last)

    def batches(self, first: int, last: int) -> Iterable[Mapping[str, Tensor]]:
        assert self.recipe.batch % 2 == 0, self.recipe.batch
        return training_batches(self._pair, first, last, self.recipe.batch // 2, self.recipe.workers)

    def losses(self, model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        assert isinstance(model, EditVAE)
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
        factor = self.config.sample_size // self.config.moments_shape[1]
        return {
            "psnr_db": _psnr(torch.stack(errors).mean()),
            "pca_psnr_db": _psnr(_pca_error(self._fitted(), pictures, factor, self.config.latent_channels)),
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

    def load(self, folder: Path) -> None:
        fill(self.model, folder / "vae")

    def save(self, model: nn.Module, folder: Path) -> None:
        """With the scaling factor that gives latents unit variance."""
        assert isinstance(model, EditVAE)
        latents = torch.cat(
            [model.encode(_signed(batch)).latent_dist.mode() for batch in held_out_batches(self._pair, 64, 32)]
        )
        model.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
        model.half().save_pretrained(folder / "vae")

    @functools.cache  # noqa: B019 - one part lives as long as its process
    def _fitted(self) -> Tensor:
        """What linear codes are fitted to."""
        draw, seeds = Renderer(), TRAIN.seeds[:PCA_SCENES]
        return _signed(default_collate([self._pair(draw, seed) for seed in seeds]))

    def _pair(self, renderer: Renderer, seed: int) -> dict[str, Tensor]:
        edit = make_edit(TRAIN if seed in TRAIN.seeds else HELD_OUT, seed)
        side = self.config.sample_size
        drawn = [renderer.draw(scene, side).image for scene in (edit.source, edit.target)]
        return {"pictures": torch.from_numpy(np.stack(drawn))}


@torch.no_grad()
def start_as_pca(vae: EditVAE, pictures: Tensor) -> None:
    """Let a fresh VAE of transposed upsampling keep of each cell of `pictures`, [N, 3, S, S], its principal components.

    From there it can only improve, where from random weights it takes hours to come as far. What lies beside the
    shortcuts starts silent. On the shortcuts, pixels are gathered into channels, the last downsampling takes the
    components, and the decoder undoes it all; of a layer's channels those that carry nothing keep their random weights.
    """
    assert vae.config.upsampling == "transposed"
    encoder, decoder, numbers = vae.encoder, vae.decoder, vae.config.latent_channels
    for module in vae.modules():
        if isinstance(module, ResnetBlock2D):
            _silence(module.conv2)
            if module.conv_shortcut is not None:
                _pass(module.conv_shortcut)
        elif isinstance(module, Attention):
            _silence(module.to_out[0])
    for conv in (encoder.conv_in, decoder.conv_in, vae.quant_conv, vae.post_quant_conv):
        _pass(conv)

    shrinking = [block.downsamplers[0].conv for block in encoder.down_blocks if block.downsamplers is not None]
    growing = [block.upsamplers[0].conv for block in decoder.up_blocks if block.upsamplers is not None]
    carried = 3
    for down, up in zip(shrinking[:-1], reversed(growing[1:]), strict=True):
        _silence(up)
        down.weight[: 4 * carried], down.bias[: 4 * carried] = 0, 0
        for channel, row, column in itertools.product(range(carried), range(2), range(2)):
            down.weight[4 * channel + 2 * row + column, channel, row, column] = 1
            up.weight[4 * channel + 2 * row + column, channel, row, column] = 1
        carried *= 4

    cells, mean = pictures, pictures.mean(dim=(0, 2, 3))
    cells = cells - mean[:, None, None]
    for _ in shrinking:
        cells = F.pixel_unshuffle(cells, 2)
    points = cells.movedim(1, -1).flatten(0, 2)
    _, spread, axes = torch.pca_lowrank(points, q=numbers, center=False, niter=6)
    gain = (spread / len(points) ** 0.5).rsqrt()  # halfway to whitened: a component counts, but not as the first does
    taken = (axes * gain).T.reshape(numbers, carried, 2, 2)
    shrinking[-1].weight[:numbers] = 0
    shrinking[-1].weight[:numbers, :carried, :2, :2] = taken
    shrinking[-1].bias[:numbers] = -taken.sum(dim=(2, 3)) @ mean.repeat_interleave(carried // 3)
    _silence(growing[0])
    growing[0].weight[:numbers, :carried] = (axes / gain).T.reshape(numbers, carried, 2, 2)

    last = encoder.down_blocks[-1].resnets[0].conv_shortcut
    _read_exactly(last, encoder.conv_norm_out, encoder.conv_out, numbers, loud=20.0)
    encoder.conv_out.bias[numbers:] = FIRST_LOGVAR
    last = decoder.up_blocks[-1].resnets[0].conv_shortcut
    _read_exactly(last, decoder.conv_norm_out, decoder.conv_out, 3, loud=6.0)
    decoder.conv_out.bias.copy_(mean)


def _read_exactly(shortcut: nn.Conv2d, norm: nn.GroupNorm, conv: nn.Conv2d, numbers: int, loud: float) -> None:
    """Let `conv`, behind group norm and SiLU, say the first `numbers` that come into `shortcut`.

    Each number goes through as itself and negated, for silu(x) - silu(-x) = x, and each group has two loud constants
    beside it, so that its norm hardly depends on the numbers.
    """
    size, each = norm.num_channels // norm.num_groups, -(-numbers // norm.num_groups)
    assert 2 * each + 2 <= size, f"{numbers} numbers in {norm.num_groups} groups of {size} channels"
    scale = loud * (2 / size) ** 0.5
    for group in range(norm.num_groups):
        first = group * size
        told = range(group * each, min((group + 1) * each, numbers))
        shortcut.weight[first : first + size], _bias(shortcut)[first : first + size] = 0, 0
        _bias(shortcut)[first + size - 2], _bias(shortcut)[first + size - 1] = loud, -loud
        for place, number in enumerate(told):
            there = first + 2 * place
            shortcut.weight[there, number], shortcut.weight[there + 1, number] = 1, -1
    _silence(conv)
    for number in range(numbers):
        there = number // each * size + 2 * (number % each)
        conv.weight[number, there, 1, 1], conv.weight[number, there + 1, 1, 1] = scale, -scale


def _pass(conv: nn.Conv2d) -> None:
    """Let the first channels through as they are."""
    width = min(conv.in_channels, conv.out_channels)
    conv.weight[:width] = nn.init.dirac_(torch.empty_like(conv.weight))[:width]
    _bias(conv)[:width] = 0


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias


def _silence(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


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
