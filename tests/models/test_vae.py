"""Source latents are an unscaled mode, target latents a scaled sample; the codec is lossless."""

import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fireedit.models.model import preset
from fireedit.models.vae import (
    Codec,
    EditVAE,
    NotFiniteError,
    PatchCodec,
    PatchCodecConfig,
    VAEConfig,
    build_vae,
    decode_latents,
    encode_pixels,
    keep_unchanged,
    load_vae,
    source_latents,
    target_latents,
)
from tests.factories import PAPERLIKE, parameter_count, picture, shaken

TINY = VAEConfig(
    sample_size=64, block_out_channels=(8, 8, 16, 16), layers_per_block=1, latent_channels=4, norm_num_groups=4
)


@pytest.fixture(scope="module")
def vae() -> EditVAE:
    torch.manual_seed(0)
    return EditVAE(TINY).eval()


@pytest.fixture(scope="module")
def codec() -> PatchCodec:
    return PatchCodec(preset("nano").vae)


@pytest.fixture(scope="module")
def canvas() -> Tensor:
    return torch.stack([torch.from_numpy(picture(seed, 64, 64)) for seed in range(2)])


def test_source_latents_are_the_unscaled_mode(vae: EditVAE, canvas: Tensor) -> None:
    with torch.no_grad():
        expected = vae.encode(canvas.permute(0, 3, 1, 2) / 127.5 - 1).latent_dist.mean
        assert torch.equal(source_latents(encode_pixels(vae, canvas)), expected)
    assert expected.shape == (2, 4, 8, 8)


def test_target_latents_are_a_scaled_sample(vae: EditVAE, canvas: Tensor) -> None:
    with torch.no_grad():
        distribution = vae.encode(canvas.permute(0, 3, 1, 2) / 127.5 - 1).latent_dist
        noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(4))
        expected = (distribution.mean + distribution.std * noise) * 0.18215
        assert torch.allclose(target_latents(vae, encode_pixels(vae, canvas), noise), expected, atol=1e-6)


@torch.no_grad()
def test_stored_moments_in_half_precision_give_latents_in_float32(vae: EditVAE, canvas: Tensor) -> None:
    moments, noise = encode_pixels(vae, canvas), torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(4))
    expected = target_latents(vae, moments, noise)
    sampled = target_latents(vae, moments.half(), noise)
    assert sampled.dtype == torch.float32 and torch.allclose(sampled, expected, atol=1e-3)


def test_decoding_undoes_the_scaling(vae: EditVAE, canvas: Tensor) -> None:
    with torch.no_grad():
        mode = source_latents(encode_pixels(vae, canvas))
        decoded = decode_latents(vae, mode * 0.18215)
        assert torch.allclose(decoded, vae.decode(mode).sample.clamp(-1, 1), atol=1e-5)
    assert decoded.shape == (2, 3, 64, 64)


def test_pixels_are_scaled_to_minus_one_to_one(vae: EditVAE) -> None:
    read = []
    hook = vae.encoder.register_forward_pre_hook(lambda _, args: read.append(args[0]))
    canvas = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    canvas[:, :, :, 1] = 255
    with torch.no_grad():
        source_latents(encode_pixels(vae, canvas))
    hook.remove()
    assert read[0].amax((0, 2, 3)).tolist() == [-1, 1, -1] and read[0].shape == (1, 3, 64, 64)


def test_the_papers_is_stable_diffusions() -> None:
    with torch.device("meta"):
        vae = EditVAE(VAEConfig())
    assert vae.config.scaling_factor == 0.18215
    assert VAEConfig().moments_shape == (8, 64, 64)


def test_pixels_that_are_not_finite_are_refused(vae: EditVAE, canvas: Tensor) -> None:
    latents = source_latents(encode_pixels(vae, canvas)) * vae.config.scaling_factor
    for value in (math.nan, math.inf):
        spoiled = latents.clone()
        spoiled[0, 0, 0, 0] = value
        with pytest.raises(NotFiniteError, match=r"found \d+ of \d+ values of a picture NaN or infinite"):
            decode_latents(vae, spoiled)


def test_cells_that_hardly_change_are_drawn_back_to_the_source() -> None:
    source = torch.zeros(1, 2, 1, 4)
    painted = torch.tensor([0.0, 0.1, 0.2, 1.0]).expand(1, 2, 1, 4)
    kept = keep_unchanged(painted, source, below=0.04)
    assert torch.allclose(kept, torch.tensor([0.0, 0.025, 0.2, 1.0]).expand(1, 2, 1, 4))
    assert torch.equal(keep_unchanged(painted, source, below=0.0), painted)


def test_the_distance_of_a_cell_is_over_all_its_channels() -> None:
    source, painted = torch.zeros(1, 2, 1, 1), torch.tensor([0.6, 0.0]).view(1, 2, 1, 1)
    assert torch.allclose(keep_unchanged(painted, source, below=0.36).flatten(), torch.tensor([0.3, 0.0]))


# The codec


def pixels(pictures: Tensor) -> Tensor:
    """Convert [B, 3, S, S] in [-1, 1] to uint8 [B, S, S, 3]."""
    return ((pictures + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)


def every_level() -> Tensor:
    """Build uint8 [3, 64, 64, 3] with every level in every channel, and noise."""
    levels = torch.arange(64 * 64).remainder(256).view(1, 64, 64, 1).expand(1, 64, 64, 3)
    noise = torch.randint(0, 256, (2, 64, 64, 3), generator=torch.Generator().manual_seed(0))
    return torch.cat([levels, noise]).to(torch.uint8)


@torch.no_grad()
def test_the_codec_is_lossless(codec: PatchCodec) -> None:
    canvas = every_level()
    moments = encode_pixels(codec, canvas)
    source, target = source_latents(moments), target_latents(codec, moments, torch.ones(3, 48, 16, 16))
    for latents in (source * codec.config.scaling_factor, target):
        assert torch.equal(pixels(decode_latents(codec, latents)), canvas)


@torch.no_grad()
def test_a_cell_of_the_codec_is_one_square_of_pixels(codec: PatchCodec) -> None:
    canvas = torch.full((1, 64, 64, 3), 255, dtype=torch.uint8)
    canvas[0, 4:8, 8:12] = 0
    latents = source_latents(encode_pixels(codec, canvas))
    assert latents.shape == (1, 48, 16, 16)
    dark = (latents < 0).all(dim=1)
    assert dark.nonzero().tolist() == [[0, 1, 2]] and latents.abs().allclose(torch.tensor(1.7))


def test_the_codec_has_no_parameters_and_the_declared_sizes(codec: PatchCodec, canvas: Tensor) -> None:
    sizes = preset("nano").vae
    assert isinstance(sizes, PatchCodecConfig) and sizes.latent_channels == 48
    assert parameter_count(codec) == 0 and not any(parameter.requires_grad for parameter in codec.parameters())
    assert encode_pixels(codec, canvas).shape == (2, *sizes.moments_shape) == (2, 96, 16, 16)
    assert PatchCodecConfig(patch_size=8, sample_size=128).moments_shape == (384, 16, 16)


@torch.no_grad()
def test_moments_of_the_codec_in_half_precision_replace_pixels(codec: PatchCodec) -> None:
    canvas = every_level()
    stored = encode_pixels(codec, canvas).half()
    assert stored.isfinite().all()
    assert torch.allclose(source_latents(stored), source_latents(encode_pixels(codec, canvas)), atol=1e-3)
    noise = torch.ones(3, 48, 16, 16)
    target = target_latents(codec, stored, noise)
    assert torch.allclose(target, target_latents(codec, encode_pixels(codec, canvas), noise), atol=1e-3)
    assert torch.equal(pixels(decode_latents(codec, target)), canvas), "half a level is 0.0067"


@torch.no_grad()
def test_the_codec_in_bfloat16_is_off_by_a_level_at_most(codec: PatchCodec) -> None:
    canvas, half = every_level(), PatchCodec(preset("nano").vae).bfloat16()
    latents = source_latents(encode_pixels(half, canvas))
    assert half.dtype == torch.bfloat16 and latents.dtype == torch.float32
    difference = pixels(decode_latents(half, latents.bfloat16()).float()).int() - canvas.int()
    assert difference.abs().max() <= 1


@torch.no_grad()
@pytest.mark.parametrize("sizes", [TINY, preset("nano").vae], ids=["VAE", "codec"])
def test_either_is_built_from_its_sizes_and_loaded_from_its_folder(
    sizes: VAEConfig | PatchCodecConfig, canvas: Tensor, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    made: Codec = build_vae(sizes).eval()
    made.bfloat16().float().save_pretrained(tmp_path)
    loaded = load_vae(tmp_path)
    assert type(loaded) is type(made) and loaded.dtype == torch.float32
    assert not loaded.training and not any(parameter.requires_grad for parameter in loaded.parameters())
    assert all(loaded.config[name] == made.config[name] for name in vars(sizes))
    assert json.loads((tmp_path / "config.json").read_text())["_class_name"] == type(made).__name__
    latents = source_latents(encode_pixels(made, canvas))
    assert torch.equal(source_latents(encode_pixels(loaded, canvas)), latents)
    assert torch.equal(decode_latents(loaded, latents), decode_latents(made, latents))


@torch.no_grad()
def test_a_picture_is_the_same_in_any_batch() -> None:
    vae = shaken(EditVAE(VAEConfig(**(asdict(PAPERLIKE.vae) | {"sample_size": 64})))).eval()
    pixels = torch.from_numpy(np.stack([picture(seed, 64, 64) for seed in range(3)]))
    moments = encode_pixels(vae, pixels)
    latents = source_latents(moments)
    decoded = decode_latents(vae, latents)
    for place in range(3):
        alone = slice(place, place + 1)
        assert torch.equal(encode_pixels(vae, pixels[alone]), moments[alone])
        assert torch.equal(decode_latents(vae, latents[alone]), decoded[alone])
