"""The VAE's part: what it learns from, and the figures it is judged by."""

from pathlib import Path

import pytest
import torch

from fireedit.jobs.pretraining import vae
from fireedit.jobs.pretraining.vae import VAEPart, VAERecipe, reconstructed
from fireedit.models.fireedit import preset
from fireedit.models.vae import EditVAE, target_latents
from fireedit.platform import config


@pytest.fixture(scope="module")
def part() -> VAEPart:
    return made()


def made(*overrides: str) -> VAEPart:
    torch.manual_seed(0)
    recipe = config.load(VAERecipe, "nano-vae", ["batch=4", "workers=0", *overrides])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vae, "PCA_SCENES", 96)
        return VAEPart(preset("nano"), recipe, Path())


def test_every_step_draws_pictures_of_its_own(part: VAEPart) -> None:
    first, second, third = (batch["pictures"] for batch in part.batches(0, 3))
    assert first.shape == (2, 2, 64, 64, 3) and first.dtype == torch.uint8
    assert torch.equal(next(iter(part.batches(2, 3)))["pictures"], third) and not torch.equal(first, second)


@torch.no_grad()
def test_it_starts_where_a_linear_code_ends(part: VAEPart) -> None:
    pictures = part._fitted()[:32]
    error = (reconstructed(part.model, pictures) - pictures).square().mean()
    assert vae._psnr(error) == pytest.approx(vae._psnr(vae._pca_error(part._fitted(), pictures, 8, 32)), abs=0.15)


def test_its_losses_reach_every_weight(part: VAEPart) -> None:
    losses = part.losses(part.model, next(iter(part.batches(0, 1))))
    losses["loss"].backward()
    assert losses["loss"] > losses["mse"] > 0 and losses["kl"] > 0
    assert all(parameter.grad is not None for parameter in part.model.parameters())


def test_its_decoder_may_learn_alone() -> None:
    learning = {
        name.split(".")[0] for name, one in made("decoder_only=true").model.named_parameters() if one.requires_grad
    }
    assert learning == {"decoder", "post_quant_conv"}


def test_a_linear_code_of_all_numbers_loses_nothing_and_of_fewer_more() -> None:
    pictures = torch.rand(64, 3, 8, 8) * 2 - 1
    errors = [float(vae._pca_error(pictures, pictures, factor=4, numbers=numbers)) for numbers in (48, 24, 6)]
    assert errors[0] < 1e-6 < errors[1] < errors[2]


@torch.no_grad()
def test_what_is_saved_makes_latents_of_unit_variance(
    part: VAEPart, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part.save(part.model, tmp_path)
    saved = EditVAE.from_pretrained(tmp_path / "vae")
    pictures = next(iter(part.batches(0, 1)))["pictures"].flatten(0, 1)
    assert target_latents(saved, pictures).std() == pytest.approx(1, abs=0.3)
    part.model.float()
