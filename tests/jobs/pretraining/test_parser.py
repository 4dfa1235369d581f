"""The judge learns from pictures of all splits, softened, and says what the truth says where it is right."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fireedit.jobs.benchmarking.parser import Maps, SceneParser, load_parser
from fireedit.jobs.benchmarking.success import judge
from fireedit.jobs.pretraining import parser
from fireedit.jobs.pretraining.loop import pretrain
from fireedit.jobs.pretraining.parser import ParserPart, ParserRecipe
from fireedit.models.fireedit import preset
from fireedit.models.vae import EditVAE
from fireedit.platform.data.scenes.families import make_edit
from fireedit.platform.data.scenes.render import Renderer
from fireedit.platform.data.scenes.world import WORLDS
from fireedit.platform.train.optimizer import OptimizerConfig

SIZES = preset("nano")
WORLD = WORLDS["unseen_seeds"]


@pytest.fixture
def recipe(tmp_path: Path) -> ParserRecipe:
    return ParserRecipe(steps=2, batch=4, optimizer=OptimizerConfig(lr=1e-3), home=str(tmp_path), log_every=1)


@pytest.fixture
def part(recipe: ParserRecipe, tmp_path: Path) -> ParserPart:
    return ParserPart(SIZES, recipe, tmp_path)


def perfect(truth: dict[str, torch.Tensor], part: ParserPart) -> Maps:
    """What a network that never errs would say of one picture."""

    def logits(classes: torch.Tensor, count: int) -> torch.Tensor:
        return 20.0 * F.one_hot(classes.clamp(min=0), count)[None]

    return Maps(
        objects=torch.logit(truth["heat"][None], eps=1e-6),
        boxes=truth["boxes"][None],
        names=logits(truth["names"], len(part.config.names)),
        colors=logits(truth["colors"], len(part.config.colors)),
        reflections=truth["reflections"][None] * 2 - 1,
        backgrounds=logits(truth["background"], len(part.config.backgrounds)),
        effects=logits(truth["effect"], len(part.config.effects)),
        mirrors=torch.logit(truth["mirror"][None], eps=1e-6),
    )


def test_the_truth_read_back_is_a_success_in_every_scene(part: ParserPart) -> None:
    """No two things fall into one cell, and no box is lost on the way."""
    model = part.model
    assert isinstance(model, SceneParser)
    for seed in WORLD.seeds[:150]:
        edit = make_edit(WORLD, seed)
        (reading,) = model.readings(perfect(part._truth(edit.target), part))
        assert judge([edit], reading).wrong == (), edit


def test_training_lowers_its_losses_and_leaves_a_parser_that_reads(
    part: ParserPart, recipe: ParserRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parser, "HELD_OUT_SCENES", 4)
    report = pretrain(part, recipe, tmp_path)
    assert {"f1", "name", "background", "effect", "parameters"} - set(report) <= {"name"}
    assert report["parameters"] <= 1_000_000
    loaded = load_parser(tmp_path)
    assert loaded.config == part.config and not loaded.training
    picture = Renderer().draw(make_edit(WORLD, WORLD.seeds[0]).source, SIZES.vae.sample_size).image
    (reading,) = loaded.read(picture[None])
    assert reading.background in loaded.config.backgrounds and reading.effect in loaded.config.effects


def test_one_picture_is_soon_learned_by_heart(part: ParserPart) -> None:
    torch.manual_seed(0)
    (batch,) = part.batches(0, 1)
    optimizer = torch.optim.AdamW(part.model.parameters(), lr=2e-3)
    first = part.losses(part.model, batch)["loss"]
    for _ in range(12):
        loss = part.losses(part.model, batch)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 0.7 * first


def test_a_step_reads_the_same_pictures_after_a_resume(part: ParserPart) -> None:
    _, second = part.batches(0, 2)
    (again,) = part.batches(1, 2)
    assert all(torch.equal(second[name], again[name]) for name in second)


def test_it_trains_on_what_a_vae_makes_of_some_pictures(recipe: ParserRecipe, tmp_path: Path) -> None:
    EditVAE(SIZES.vae).save_pretrained(tmp_path / "vae")
    part = ParserPart(SIZES, dataclasses.replace(recipe, reconstructed_share=0.5), tmp_path)
    assert part.config.reconstructions
    pictures = torch.rand(4, 3, 64, 64) * 2 - 1
    softened = part._through_vae(pictures.clone())
    assert int((softened != pictures).flatten(1).any(dim=1).sum()) == 2


def test_a_spoiled_picture_stays_the_same_picture(part: ParserPart) -> None:
    for seed in range(10):
        spoiled = part._softened_pair(Renderer(), seed)["pictures"]
        assert spoiled.shape == (2, 64, 64, 3) and spoiled.dtype == torch.uint8
        assert np.ptp(spoiled.numpy()) > 50
