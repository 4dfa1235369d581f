"""Latents of source and target differ: the one is an unscaled mode, the other a scaled sample."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fireedit.models.fireedit import preset
from fireedit.models.vae import (
    EditVAE,
    VAEConfig,
    decode_latents,
    keep_unchanged,
    moments,
    source_latents,
    target_latents,
)
from tests.factories import parameter_count, picture


@pytest.fixture(scope="module")
def vae() -> EditVAE:
    torch.manual_seed(0)
    return EditVAE(preset("nano").vae).eval()


@pytest.fixture(scope="module")
def canvas() -> Tensor:
    return torch.stack([torch.from_numpy(picture(seed, 64, 64)) for seed in range(2)])


def test_source_latents_are_the_unscaled_mode(vae: EditVAE, canvas: Tensor) -> None:
    with torch.no_grad():
        wanted = vae.encode(canvas.permute(0, 3, 1, 2) / 127.5 - 1).latent_dist.mean
        assert torch.equal(source_latents(vae, canvas), wanted)
    assert wanted.shape == (2, 32, 8, 8)


def test_target_latents_are_a_scaled_sample(vae: EditVAE, canvas: Tensor) -> None:
    with torch.no_grad():
        distribution = vae.encode(canvas.permute(0, 3, 1, 2) / 127.5 - 1).latent_dist
        torch.manual_seed(4)
        wanted = (distribution.mean + distribution.std * torch.randn(2, 32, 8, 8)) * 0.18215
        torch.manual_seed(4)
        assert torch.allclose(target_latents(vae, canvas), wanted, atol=1e-6)


@torch.no_grad()
def test_stored_moments_stand_in_for_their_pictures(vae: EditVAE, canvas: Tensor) -> None:
    stored = moments(vae, canvas)
    assert stored.shape == (2, *preset("nano").vae.moments_shape) == (2, 64, 8, 8)
    assert torch.equal(source_latents(vae, stored), source_latents(vae, canvas))
    torch.manual_seed(4)
    wanted = target_latents(vae, canvas)
    torch.manual_seed(4)
    assert torch.equal(target_latents(vae, stored), wanted)


@torch.no_grad()
def test_moments_of_another_dtype_draw_the_same_random_numbers(vae: EditVAE, canvas: Tensor) -> None:
    """Drawn in the VAE's dtype: those of half precision are others, not roundings."""
    stored = moments(vae, canvas).half()
    torch.manual_seed(4)
    wanted = target_latents(vae, canvas)
    torch.manual_seed(4)
    sampled = target_latents(vae, stored)
    assert sampled.dtype == torch.float32 and torch.allclose(sampled, wanted, atol=1e-3)


def test_decoding_undoes_the_scaling(vae: EditVAE, canvas: Tensor) -> None:
    with torch.no_grad():
        mode = source_latents(vae, canvas)
        decoded = decode_latents(vae, mode * 0.18215)
        assert torch.allclose(decoded, vae.decode(mode).sample.clamp(-1, 1), atol=1e-5)
    assert decoded.shape == (2, 3, 64, 64)


def test_pictures_become_numbers_from_minus_one_to_one(vae: EditVAE) -> None:
    read = []
    hook = vae.encoder.register_forward_pre_hook(lambda _, args: read.append(args[0]))
    canvas = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    canvas[:, :, :, 1] = 255
    with torch.no_grad():
        source_latents(vae, canvas)
    hook.remove()
    assert read[0].amax((0, 2, 3)).tolist() == [-1, 1, -1] and read[0].shape == (1, 3, 64, 64)


def test_it_is_stable_diffusions() -> None:
    with torch.device("meta"):
        vae = EditVAE(VAEConfig())
    assert parameter_count(vae) == 83_653_863
    assert vae.config.scaling_factor == 0.18215
    assert VAEConfig().moments_shape == (8, 64, 64)


def test_its_decoder_grows_by_transposed_convolutions_if_it_is_told_to(vae: EditVAE, tmp_path: Path) -> None:
    layers = [block.upsamplers[0].conv for block in vae.decoder.up_blocks[:-1]]
    assert all(isinstance(layer, nn.ConvTranspose2d) for layer in layers)
    vae.save_pretrained(tmp_path)
    again, latents = EditVAE.from_pretrained(tmp_path).eval(), torch.randn(1, 32, 8, 8)
    with torch.no_grad():
        assert torch.equal(decode_latents(again, latents), decode_latents(vae, latents))


def test_cells_that_hardly_change_are_drawn_back_to_the_source() -> None:
    source = torch.zeros(1, 2, 1, 4)
    painted = torch.tensor([0.0, 0.1, 0.2, 1.0]).expand(1, 2, 1, 4)
    kept = keep_unchanged(painted, source, below=0.04)
    assert torch.allclose(kept, torch.tensor([0.0, 0.025, 0.2, 1.0]).expand(1, 2, 1, 4))
    assert torch.equal(keep_unchanged(painted, source, below=0.0), painted)


def test_how_far_a_cell_is_kept_hangs_on_all_its_channels() -> None:
    source, painted = torch.zeros(1, 2, 1, 1), torch.tensor([0.6, 0.0]).view(1, 2, 1, 1)
    assert torch.allclose(keep_unchanged(painted, source, below=0.36).flatten(), torch.tensor([0.3, 0.0]))
