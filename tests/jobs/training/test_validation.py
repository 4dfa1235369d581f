"""A checkpoint is validated on held-out rows to the same numbers and the same pictures each time."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from fireedit.jobs.training.recipe import TrainRecipe, ValidationConfig, read_recipe
from fireedit.jobs.training.stage_task import StageSettings
from fireedit.jobs.training.validation import held_out, prepare, sheet_samples, staged_pipeline, validate
from fireedit.models.model import NANO
from fireedit.platform import storage
from fireedit.platform.data.shards import Index, Shard, ShardsError, write_index
from fireedit.platform.train.checkpoints import path_of
from fireedit.platform.train.progress import Row
from fireedit.platform.train.runs import Run
from tests.factories import write_checkpoint

SMALL = ["scenes.size=32", "engine.micro_batch=2", "validate_every=10", "validation={rows: 3, pictures: 3}"]
SMALL += ["objective.denoise_weight=1", f"init_from={NANO}"]
LOSSES = ValidationConfig(rows=3, pictures=0)
EDITS = "mixture={magicbrush: 3, ultraedit: 2, llava_instruct: 1}"


def settings_in(home: Path, stage: int, *overrides: str) -> StageSettings:
    """Make a run with a checkpoint of step 7 and with held-out rows."""
    recipe = read_recipe(["--stage", str(stage), f"home={home}", *SMALL, *overrides])
    for name in recipe.mixture:
        write_index(str(home / "shards" / name), Index(name, "train", "train", [Shard("000000-000", 4)]))
    prepare(recipe)
    run = Run(str(home), "run")
    write_checkpoint(recipe, run, step=7)
    return StageSettings(recipe=recipe, run=run, init_from=str(NANO))


def with_recipe(settings: StageSettings, **changes: object) -> StageSettings:
    return replace(settings, recipe=replace(settings.recipe, **changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def third(tmp_path_factory: pytest.TempPathFactory) -> StageSettings:
    return settings_in(tmp_path_factory.mktemp("home"), 3, EDITS)


@pytest.fixture(scope="module")
def row(third: StageSettings) -> Row:
    """Figures of the checkpoint's averages."""
    return validate(path_of(third.run.folder, 7), third)


def test_a_checkpoint_has_the_same_losses_and_pictures_each_time(third: StageSettings, row: Row) -> None:
    sheet = storage.join(third.run.samples, "step-00000007.png")
    drawn = storage.read_bytes(sheet)
    assert validate(path_of(third.run.folder, 7), third) == row and storage.read_bytes(sheet) == drawn
    mean = sum(weight * row[f"validation/loss/{name}"] for name, weight in third.recipe.mixture.items()) / 6
    assert row["validation/loss"] == pytest.approx(mean) and row["step"] == 7
    assert [json.loads(line) for line in storage.read_bytes(third.run.validation).splitlines()] == [row]
    with Image.open(sheet) as opened:
        assert opened.width > 3 * 2 * 192, "three cards of two pictures"
    events = Path(third.run.tensorboard, "validation").glob("events.*")
    assert any(b"validation/loss/magicbrush" in path.read_bytes() for path in events)


def test_dropout_and_the_runs_seed_change_no_loss(third: StageSettings, row: Row) -> None:
    dropout = replace(third.recipe.dropout, text=0.05, both=0.9)
    alike = with_recipe(third, seed=5, dropout=dropout, validation=LOSSES)
    assert validate(path_of(third.run.folder, 7), alike) == row


def test_bf16_rounds_the_losses_only(third: StageSettings, row: Row) -> None:
    rounded = with_recipe(third, engine=replace(third.recipe.engine, precision="bf16"))
    loss = validate(path_of(third.run.folder, 7), rounded)["validation/loss"]
    assert loss == pytest.approx(row["validation/loss"], rel=0.05) and loss != row["validation/loss"]


def test_the_last_weights_are_validated_where_there_are_no_averages(third: StageSettings, row: Row) -> None:
    last = validate(path_of(third.run.folder, 7), with_recipe(third, ema=0.0, validation=LOSSES))
    assert last["validation/loss"] < row["validation/loss"], "they are not as far away from what shipped"


def test_a_sheet_has_edits_of_each_corpus_in_turn(third: StageSettings) -> None:
    pipeline = staged_pipeline(path_of(third.run.folder, 7), third)
    samples = sheet_samples(held_out(third.recipe, pipeline), 3)
    assert [sample.corpus for sample in samples] == ["magicbrush", "ultraedit", "magicbrush"]


def test_captions_have_losses_and_no_sheet(tmp_path: Path) -> None:
    first = settings_in(tmp_path, 1)
    row = validate(path_of(first.run.folder, 7), first)
    assert row["validation/loss/cc12m"] == row["validation/loss"] > 0
    assert not storage.exists(first.run.samples)


def test_a_run_without_any_held_out_rows_is_refused(tmp_path: Path) -> None:
    recipe: TrainRecipe = read_recipe(["--stage", "1", "--config", "paper", f"home={tmp_path}", "validate_every=10"])
    write_index(str(tmp_path / "shards" / "cc12m"), Index("cc12m", "train", "", [Shard("000000-000", 4)]))
    with pytest.raises(ShardsError, match="no held-out split of cc12m is published; write validate_every=null"):
        prepare(recipe)
    prepare(replace(recipe, validate_every=None))
