"""Baselines: the source itself, and the target after a VAE, the bound of all editors that paint its latents."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fireedit.models.checkpoint_files import check_file, check_folder
from fireedit.models.editors.instruct_pix2pix import fit
from fireedit.models.model import NANO
from fireedit.models.processor import squash
from fireedit.models.settings import PaintSettings
from fireedit.models.vae import Codec, PatchCodec, decode_latents, encode_pixels, load_vae, source_latents
from fireedit.models.weights import fingerprint


class Copy:
    """Editor that changes nothing."""

    name, weights, settings = "copy", "", PaintSettings()

    def edit(
        self, pictures: Sequence[np.ndarray], instructions: Sequence[str], seeds: Sequence[int], settings: PaintSettings
    ) -> list[np.ndarray]:
        return list(pictures)


class Reconstruction:
    """Editor whose pictures are its sources after a VAE; an evaluation gives it the targets as sources."""

    name, settings = "vae", PaintSettings()

    def __init__(self, vae: Codec):
        self.vae, self.weights = vae, fingerprint(vae)

    @torch.no_grad()
    def edit(
        self, pictures: Sequence[np.ndarray], instructions: Sequence[str], seeds: Sequence[int], settings: PaintSettings
    ) -> list[np.ndarray]:
        return [self._reconstruct(picture) for picture in pictures]

    def _reconstruct(self, picture: np.ndarray) -> np.ndarray:
        if isinstance(self.vae, PatchCodec):
            canvas = squash(picture, self.vae.config.sample_size)
        else:
            canvas = np.asarray(fit(Image.fromarray(picture)))
        latents = source_latents(encode_pixels(self.vae, torch.from_numpy(canvas[None].copy()).to(self.vae.device)))
        decoded = decode_latents(self.vae, latents * self.vae.config.scaling_factor)[0]
        return ((decoded + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()


def load_copy(folder: Path | str, device: str) -> Copy:
    return Copy()


def load_reconstruction(folder: Path | str, device: str) -> Reconstruction:
    """Load the VAE of a pipeline's folder, diffusers' or FireEdit's; `nano` names the shipped one."""
    folder = (NANO if folder == "nano" else Path(folder)) / "vae"
    check_file(folder / "config.json")
    return Reconstruction(load_vae(check_folder(folder)).to(device))
