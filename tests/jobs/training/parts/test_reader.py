"""The judge is trained on corrupted images of all splits, and perfect predictions give the true scene."""

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import default_collate

from fireedit.jobs.evaluation.scene_reader import Maps, SceneReader, load_reader
from fireedit.jobs.evaluation.success import faults
from fireedit.jobs.training.parts.reader import (
    MAX_OBJECTS,
    SceneReaderRecipe,
    SceneReaderTask,
    Truth,
    table,
    truth_of,
)
from fireedit.models.model import preset
from fireedit.models.tokens import IGNORED
from fireedit.platform.scenes.families import make_edit
from fireedit.platform.scenes.render import draw_scene
from fireedit.platform.scenes.scene import Scene
from fireedit.platform.scenes.world import WORLDS
from fireedit.platform.train.optimizer import OptimizerConfig

SIZES = preset("nano")
WORLD = WORLDS["unseen_seeds"]
CELLS = SIZES.vae.sample_size // 4


@pytest.fixture
def task(tmp_path: Path) -> SceneReaderTask:
    optimizer = OptimizerConfig(lr=1e-3)
    recipe = SceneReaderRecipe(steps=2, batch=4, optimizer=optimizer, held_out=4, judged=1, home=str(tmp_path))
    return SceneReaderTask(SIZES, recipe, tmp_path)


def tables_of(scenes: list[Scene], task: SceneReaderTask) -> dict[str, torch.Tensor]:
    return default_collate([table(scene, task.config) for scene in scenes])


def perfect(tables: dict[str, torch.Tensor], truth: Truth, task: SceneReaderTask) -> Maps:
    """Maps of a perfect prediction."""

    def logits(classes: torch.Tensor, count: int) -> torch.Tensor:
        return 20.0 * F.one_hot(classes.long().clamp(min=0), count)

    return Maps(
        objects=torch.logit(truth.heat, eps=1e-6),
        boxes=truth.boxes,
        names=logits(truth.names, len(task.config.names)),
        colors=logits(truth.colors, len(task.config.colors)),
        reflections=truth.reflections * 2 - 1,
        backgrounds=logits(tables["backgrounds"], len(task.config.backgrounds)),
        effects=logits(tables["effects"], len(task.config.effects)),
        mirrors=torch.logit(truth.mirror, eps=1e-6),
    )


def test_perfect_maps_are_read_as_a_success_in_every_scene(task: SceneReaderTask) -> None:
    """No two objects fall into one cell, and no box is lost."""
    edits = [make_edit(WORLD, seed) for seed in WORLD.seeds[:100]]
    tables = tables_of([edit.target for edit in edits], task)
    assert isinstance(task.model, SceneReader)
    readings = task.model.readings(perfect(tables, truth_of(tables, CELLS), task))
    for edit, reading in zip(edits, readings, strict=True):
        assert not faults([edit], reading), edit


def test_perfect_maps_have_no_loss(task: SceneReaderTask) -> None:
    batch = {name: value[None] for name, value in task.draw(0).items()}
    tables = {name: value.flatten(0, 1) for name, value in batch.items()}
    maps = perfect(tables, truth_of(tables, CELLS), task)
    losses = task.losses(lambda pictures: maps, batch)
    assert losses["box"] == 0
    assert all(losses[name] < 0.01 for name in ("name", "color", "background", "effect")), losses


def test_samples_have_the_same_shapes(task: SceneReaderTask) -> None:
    batch = default_collate([task.draw(seed) for seed in range(8)])
    assert batch["pictures"].shape == (8, 2, 64, 64, 3) and batch["pictures"].dtype == torch.uint8
    assert batch["names"].shape == (8, 2, MAX_OBJECTS) and (batch["names"] == IGNORED).any()


def test_one_batch_is_soon_overfitted(task: SceneReaderTask) -> None:
    torch.manual_seed(0)
    model = SceneReader(dataclasses.replace(task.config, widths=(8, 32), depths=(1, 1)))
    batch = default_collate([task.draw(seed) for seed in range(2)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    first = task.losses(model, batch)["loss"]
    for _ in range(15):
        loss = task.losses(model, batch)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 0.7 * first


def test_figures_hold_the_pass_rate_of_each_family(task: SceneReaderTask, tmp_path: Path) -> None:
    figures = task.figures(task.model)
    assert {"pass_remove", "pass_style", "pass_no_op", "noisy_pass", "speckled_pass_least"} <= set(figures)
    assert figures["pass_least"] == 0 and {"f1", "background", "copies_pass"} <= set(figures)
    assert figures["parameters"] <= 1_200_000 and task.preview(task.model).width > 192
    task.save(task.model, tmp_path)
    loaded = load_reader(tmp_path)
    assert loaded.config == task.config and not loaded.training
    task.load(tmp_path)
    picture = draw_scene(make_edit(WORLD, WORLD.seeds[0]).source, SIZES.vae.sample_size).image
    (reading,) = loaded.read(picture[None])
    assert reading.background in loaded.config.backgrounds and reading.effect in loaded.config.effects
