"""The judge learns from pictures of all splits, spoiled, and says what the truth says where it is right."""

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from fireedit.jobs.evaluation.scene_reader import Maps, SceneReader, load_reader
from fireedit.jobs.evaluation.success import judge
from fireedit.jobs.training.parts.reader import (
    MOST_IN_A_SCENE,
    UNTOLD,
    SceneReaderRecipe,
    SceneReaderTask,
    Truth,
    table,
    truth_of,
)
from fireedit.models.model import preset
from fireedit.platform.scenes.families import make_edit
from fireedit.platform.scenes.render import draw_scene
from fireedit.platform.scenes.scene import Scene
from fireedit.platform.scenes.world import WORLDS
from fireedit.platform.train.optimizer import OptimizerConfig

SIZES = preset("nano")
WORLD = WORLDS["unseen_seeds"]
CELLS = SIZES.vae.sample_size // 4


@pytest.fixture
def part(tmp_path: Path) -> SceneReaderTask:
    optimizer = OptimizerConfig(lr=1e-3)
    recipe = SceneReaderRecipe(steps=2, batch=4, optimizer=optimizer, held_out=4, judged=1, home=str(tmp_path))
    return SceneReaderTask(SIZES, recipe, tmp_path)


def tables_of(scenes: list[Scene], part: SceneReaderTask) -> dict[str, torch.Tensor]:
    tables = [table(scene, part.config) for scene in scenes]
    return {name: torch.stack([one[name] for one in tables]) for name in tables[0]}


def perfect(tables: dict[str, torch.Tensor], truth: Truth, part: SceneReaderTask) -> Maps:
    """Maps of a network that never errs."""

    def logits(classes: torch.Tensor, count: int) -> torch.Tensor:
        return 20.0 * F.one_hot(classes.long().clamp(min=0), count)

    return Maps(
        objects=torch.logit(truth.heat, eps=1e-6),
        boxes=truth.boxes,
        names=logits(truth.names, len(part.config.names)),
        colors=logits(truth.colors, len(part.config.colors)),
        reflections=truth.reflections * 2 - 1,
        backgrounds=logits(tables["backgrounds"], len(part.config.backgrounds)),
        effects=logits(tables["effects"], len(part.config.effects)),
        mirrors=torch.logit(truth.mirror, eps=1e-6),
    )


def test_the_truth_read_back_is_a_success_in_every_scene(part: SceneReaderTask) -> None:
    """No two things fall into one cell, and no box is lost on the way."""
    edits = [make_edit(WORLD, seed) for seed in WORLD.seeds[:100]]
    tables = tables_of([edit.target for edit in edits], part)
    assert isinstance(part.model, SceneReader)
    readings = part.model.readings(perfect(tables, truth_of(tables, CELLS), part))
    for edit, reading in zip(edits, readings, strict=True):
        assert judge([edit], reading).wrong == (), edit


def test_a_perfect_network_has_nothing_to_lose(part: SceneReaderTask) -> None:
    batch = {name: value[None] for name, value in part.draw(0).items()}
    tables = {name: value.flatten(0, 1) for name, value in batch.items()}
    maps = perfect(tables, truth_of(tables, CELLS), part)
    losses = part.losses(lambda pictures: maps, batch)
    assert losses["box"] == 0
    assert all(losses[name] < 0.01 for name in ("name", "color", "background", "effect")), losses


def test_samples_have_one_shape_and_no_words(part: SceneReaderTask) -> None:
    first, *others = [part.draw(seed) for seed in range(8)]
    assert first["pictures"].shape == (2, 64, 64, 3) and first["pictures"].dtype == torch.uint8
    assert first["names"].shape == (2, MOST_IN_A_SCENE) and (first["names"] == UNTOLD).any()
    for other in others:
        assert {name: (v.shape, v.dtype) for name, v in other.items()} == {
            name: (v.shape, v.dtype) for name, v in first.items()
        }


def test_one_batch_is_soon_learned_by_heart(part: SceneReaderTask) -> None:
    torch.manual_seed(0)
    model = SceneReader(dataclasses.replace(part.config, widths=(8, 32), depths=(1, 1)))
    samples = [part.draw(seed) for seed in range(2)]
    batch = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    first = part.losses(model, batch)["loss"]
    for _ in range(15):
        loss = part.losses(model, batch)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 0.7 * first


def test_figures_tell_what_the_judge_passes_of_each_family(part: SceneReaderTask, tmp_path: Path) -> None:
    figures = part.figures(part.model)
    assert {"pass_remove", "pass_style", "pass_no_op", "noisy_pass", "speckled_pass_least"} <= set(figures)
    assert figures["pass_least"] == 0 and {"f1", "background", "copies_pass"} <= set(figures)
    assert figures["parameters"] <= 1_200_000
    part.save(part.model, tmp_path)
    loaded = load_reader(tmp_path)
    assert loaded.config == part.config and not loaded.training
    part.load(tmp_path)
    picture = draw_scene(make_edit(WORLD, WORLD.seeds[0]).source, SIZES.vae.sample_size).image
    (reading,) = loaded.read(picture[None])
    assert reading.background in loaded.config.backgrounds and reading.effect in loaded.config.effects


def test_the_sheet_shows_held_out_pictures(part: SceneReaderTask) -> None:
    assert part.preview(part.model).width > 192
