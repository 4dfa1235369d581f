"""A run starts from the stage before and resumes only as what it began as."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from fireedit.jobs.training.recipe import TrainRecipe, read_recipe
from fireedit.jobs.training.stage_run import (
    begin,
    refuse_another_run,
    require_same_corpora,
    run_stage,
    starting_weights,
)
from fireedit.models.model import NANO
from fireedit.platform import config, storage
from fireedit.platform.data.ingest import Corpora, IngestConfig
from fireedit.platform.data.shards import Index, Shard, ShardsError, write_index
from fireedit.platform.train.loop import DivergedError
from fireedit.platform.train.runs import Run


def recipe_in(home: Path, *overrides: str, stage: int = 2) -> TrainRecipe:
    return read_recipe(["--stage", str(stage), f"home={home}", *overrides])


def save(run: Run, recipe: TrainRecipe, **changes: object) -> None:
    """Write a run's recipe with some of its plain values changed."""
    storage.write_bytes(run.recipe, yaml.safe_dump({**yaml.safe_load(config.dump(recipe)), **changes}).encode())


def finish(run: Run) -> None:
    storage.write_bytes(storage.join(run.weights, "model_index.json"), b"{}")


def test_a_run_starts_from_what_ships_or_from_the_stage_before_of_its_sizes(tmp_path: Path) -> None:
    recipe, run = recipe_in(tmp_path), Run(str(tmp_path), "new")
    assert starting_weights(recipe, run) == str(NANO), "the weights that ship"

    before = Run(str(tmp_path), "before")
    save(before, recipe_in(tmp_path, stage=1))
    finish(before)
    wider = Run(str(tmp_path), "wider")
    save(wider, recipe_in(tmp_path, "model.vlm.lora_rank=16", stage=1))
    finish(wider)
    assert starting_weights(recipe, run) == before.weights
    assert starting_weights(recipe_in(tmp_path, "model.vlm.lora_rank=16"), run) == wider.weights
    one_view = recipe_in(tmp_path, "model.hvca.sources=coarse")
    assert starting_weights(one_view, run) == before.weights, "HVCA is trained in stage 3"

    save(run, recipe, init_from="where-it-began")
    assert starting_weights(recipe, run) == "where-it-began", "a run that resumes"
    with pytest.raises(SystemExit, match="init_from: .*elsewhere holds no model_index.json"):
        starting_weights(replace(recipe, init_from="elsewhere"), run)


def test_the_papers_stage_needs_the_one_before(tmp_path: Path) -> None:
    paper = read_recipe(["--stage", "2", "--config", "paper", f"home={tmp_path}"])
    with pytest.raises(SystemExit, match="no finished run of paper stage 1.*init_from="):
        starting_weights(paper, Run(str(tmp_path), "other"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=3", "has seed 0, not 3"),
        ("model.vlm.lora_rank=16", "has model.vlm.lora_rank 8, not 16"),
        ("without=[hvca]", r"has without \[\], not \['hvca'\]"),
        ("mixture={refcoco: 1}", "has mixture.cocostuff 0.02, not None"),
        ("mixture.cc12m=1", "has mixture.cc12m None, not 1"),
        ("ema=0.5", "has ema 0.99, not 0.5"),
        ("ingest.shuffle_groups=3", "has ingest.shuffle_groups .*, not 3"),
        ("workers.count=1", "has 32 samples a step, not 16; with workers.count=1 write an engine.micro_batch"),
    ],
)
def test_another_recipe_does_not_resume_a_run(tmp_path: Path, override: str, message: str) -> None:
    run = Run(str(tmp_path), "first")
    save(run, recipe_in(tmp_path))
    assert refuse_another_run(recipe_in(tmp_path), run) == []
    with pytest.raises(SystemExit, match=f"run first {message}.*(?:another run=NAME|as many)"):
        refuse_another_run(recipe_in(tmp_path, override), run)


def test_a_run_resumes_with_other_values_of_all_else_and_each_is_told(tmp_path: Path) -> None:
    run, home = Run(str(tmp_path), "first"), tmp_path / "moved"
    assert refuse_another_run(recipe_in(tmp_path), run) == [], "a run that has not begun"
    save(run, recipe_in(tmp_path))
    changes = [
        "minutes=90",
        "optimizer.lr=1e-3",
        "workers.count=1",
        "engine.accumulate=2",
        "model.painting.guidance_scale=3",
    ]
    told = refuse_another_run(replace(recipe_in(home, *changes), run="first", init_from="elsewhere"), run)
    assert told == [
        "engine.accumulate: 1 -> 2",
        "minutes: 60.0 -> 90.0",
        "optimizer.lr: 0.0006 -> 0.001",
        "workers.count: 2 -> 1",
    ]


def test_a_run_that_begins_or_resumes_says_so_and_records_its_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(str(tmp_path), "first")
    settings = begin(recipe_in(tmp_path, "steps=5"), run)
    assert settings.init_from == str(NANO) and settings.run == run
    assert "run first: nano-stage2 from" in capsys.readouterr().err
    assert run.saved_recipe() == config.to_plain(replace(settings.recipe, run="first", init_from=str(NANO)))
    begin(recipe_in(tmp_path, "steps=7"), run)
    assert "  changed since its last sitting: steps: 5 -> 7\n" in capsys.readouterr().err
    begin(recipe_in(tmp_path, "steps=7"), run)
    assert "changed" not in capsys.readouterr().err


def test_a_run_that_diverges_ends_with_a_sentence_that_names_it(tmp_path: Path) -> None:
    def diverge(recipe: TrainRecipe, run: Run) -> None:
        raise DivergedError("step 3: training has diverged")

    with pytest.raises(SystemExit, match="run wild: step 3: .* diverged: the same command with these and run=wild"):
        run_stage(replace(recipe_in(tmp_path), run="wild"), diverge)


def test_a_run_of_another_stage_or_version_must_begin_anew(tmp_path: Path) -> None:
    run = Run(str(tmp_path), "first")
    save(run, recipe_in(tmp_path))
    with pytest.raises(SystemExit, match="run first has stage 2, not 3; write another run=NAME"):
        refuse_another_run(recipe_in(tmp_path, stage=3), run)
    save(run, recipe_in(tmp_path), grad_clip=1.0)
    with pytest.raises(SystemExit, match="run first was begun by another version: .*'grad_clip'.*another run=NAME"):
        refuse_another_run(recipe_in(tmp_path), run)


def test_a_run_resumes_only_with_the_shards_that_it_began_with(tmp_path: Path) -> None:
    run = Run(str(tmp_path), "first")
    for rows in ([3], [3], [2, 1]):
        shards = [Shard(f"{number:06d}-000", count) for number, count in enumerate(rows)]
        write_index(str(tmp_path / "shards" / "cc12m"), Index("cc12m", "train", "train", shards))
        corpora = Corpora(str(tmp_path / "shards"), {"cc12m": 1}, 0, IngestConfig())
        if len(rows) == 1:
            require_same_corpora(corpora, run)
    with pytest.raises(ShardsError, match="began with 3 rows of cc12m"):
        require_same_corpora(corpora, run)
