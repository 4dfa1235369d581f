"""A stage from the command line to weights that the next stage finds; a wrong one says what to write."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray

from fireedit.jobs import train
from fireedit.jobs.training.recipe import CONFIGS
from fireedit.models.pipeline import FireEditPipeline
from fireedit.platform import config, storage
from fireedit.platform.data.catalog import CORPORA
from fireedit.platform.data.ingest import Corpora, IngestConfig
from fireedit.platform.data.shards import Index, Shard, ShardsError, write_index
from fireedit.platform.train import runs
from fireedit.platform.train.ledger import read_ledger
from fireedit.platform.train.progress import from_lines

ROOT = Path(__file__).parents[2]
SMALL = ["scenes.rows=24", "scenes.size=32", "ingest.rows_per_task=16", "engine.micro_batch=2", "log_every=1"]
SMALL += ["optimizer={lr: 1.0e-3}"]  # Muon costs more than a step of so few samples
SMALL += ["ingest.tasks=1"]  # a process more imports torch for longer than it reads
MIXTURE = "mixture={instructpix2pix: 1, llava_instruct: 1}"


def run_stage(stage: int, home: Path, capsys: pytest.CaptureFixture[str], *overrides: str) -> dict[str, Any]:
    sys.argv = ["train.py", "--stage", str(stage), f"home={home}", *SMALL, *overrides]
    train.main()
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.ray
@pytest.mark.slow
def test_each_stage_starts_from_the_one_before_and_ends_with_loadable_weights(
    ray_session: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run_stage(1, tmp_path, capsys, "steps=2", "run=one")
    assert (first["run"], first["stage"], first["step"], first["set_aside"]) == ("one", 1, 2, 0)
    assert set(first["last"]) >= {"loss", "img", "align", "diversity", "samples_per_s", "data_wait_share"}

    second = run_stage(2, tmp_path, capsys, "steps=2", "run=two", MIXTURE, "objective.denoise_weight=1")
    shares = {name: (figures["weight"], figures["share"]) for name, figures in second["mixture"].items()}
    assert shares == {"instructpix2pix": (0.5, 0.5), "llava_instruct": (0.5, 0.5)}
    assert all(figures["loss"] > 0 and figures["epochs"] > 0 for figures in second["mixture"].values())
    recipe = config.load(train.TrainRecipe, runs.Run(str(tmp_path), "two").recipe)
    assert recipe.init_from == first["weights"], "the recipe that ran is saved whole"
    before, after = (FireEditPipeline.from_pretrained(run["weights"]) for run in (first, second))
    moved = {
        name
        for (name, old), new in zip(before.model.named_parameters(), after.model.parameters(), strict=True)
        if not old.equal(new)
    }
    assert any(name.startswith("unet.") for name in moved) and any("lora_" in name for name in moved)
    assert not [name for name in moved if name.startswith(("vision.", "detector.", "vae.", "tati.", "hvca."))]

    again = run_stage(2, tmp_path, capsys, "steps=2", "run=two", MIXTURE)
    assert again == second, "a finished run is not trained again"
    with pytest.raises(SystemExit, match="run two has stage 2, not 3; write another run=NAME"):
        run_stage(3, tmp_path, capsys, "steps=2", "run=two")


def test_a_run_goes_on_with_the_shards_that_it_began_with_only(tmp_path: Path) -> None:
    run = runs.Run(str(tmp_path), "one")
    for rows in ([3], [3], [2, 1]):
        shards = [Shard(f"{number:06d}-000", count) for number, count in enumerate(rows)]
        write_index(str(tmp_path / "shards" / "cc12m"), Index("cc12m", "train", "train", shards))
        corpora = Corpora(str(tmp_path / "shards"), {"cc12m": 1}, 0, IngestConfig())
        if len(rows) == 1:
            train.require_same_corpora(corpora, run)
    with pytest.raises(ShardsError, match="run one began with 3 rows of cc12m; its shards have been made anew"):
        train.require_same_corpora(corpora, run)


@pytest.mark.ray
@pytest.mark.soak
def test_a_killed_run_goes_on_to_the_sample_also_with_fewer_workers(
    ray_session: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = ["steps=8", "save_every=2", "init_from=fresh", MIXTURE]
    unbroken = run_stage(2, tmp_path, capsys, "run=unbroken", *whole)

    kill_at_step(3, tmp_path, "run=broken", *whole)
    alone = ["workers.count=1", "engine.accumulate=2"]
    with pytest.raises(SystemExit, match="has 4 samples a step, not 2; with workers.count=1 write an engine.micro_bat"):
        run_stage(2, tmp_path, capsys, "run=broken", *whole, alone[0])
    kill_at_step(5, tmp_path, "run=broken", *whole, *alone)
    broken = run_stage(2, tmp_path, capsys, "run=broken", *whole)

    seen, seen_unbroken = (read_ledger(runs.Run(str(tmp_path), name).ledger) for name in ("broken", "unbroken"))
    assert len(seen) == 16 and seen == seen_unbroken
    assert broken["last"]["loss"] == pytest.approx(unbroken["last"]["loss"], rel=1e-3)
    assert broken["mixture"].keys() == unbroken["mixture"].keys()
    for name, figures in unbroken["mixture"].items():
        assert broken["mixture"][name]["share"] == figures["share"]


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_ends_with_its_minutes_and_a_broken_one_is_saved_as_it_is_when_asked_to(
    ray_session: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    timed = run_stage(2, tmp_path, capsys, "run=timed", "init_from=fresh", MIXTURE, "minutes=0.05")
    assert timed["step"] >= 1 and FireEditPipeline.from_pretrained(timed["weights"]).unet is not None

    whole = ["steps=99", "save_every=2", "init_from=fresh", MIXTURE]
    kill_at_step(3, tmp_path, "run=broken", *whole)
    saved = run_stage(2, tmp_path, capsys, "run=broken", *whole, "minutes=1e-6")
    assert 2 <= saved["step"] < 99 and len(read_ledger(runs.Run(str(tmp_path), "broken").ledger)) >= 4
    assert FireEditPipeline.from_pretrained(saved["weights"]).unet is not None


def kill_at_step(step: int, home: Path, *overrides: str) -> None:
    """Train in a process of its own on the session's Ray; kill it once it has reported the step and has a checkpoint.

    Ray Train registers a checkpoint some steps after it was written.
    """
    name = next(word.partition("=")[2] for word in overrides if word.startswith("run="))
    metrics, checkpoints = (
        home / "runs" / name / file for file in ("metrics.jsonl", "checkpoint_manager_snapshot.json")
    )
    environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    command = [sys.executable, "jobs/train.py", "--stage", "2", f"home={home}", *SMALL, *overrides]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        while not (checkpoints.exists() and metrics.exists() and from_lines(metrics.read_bytes())[-1]["step"] >= step):
            if process.poll() is not None:
                pytest.fail(f"training ended by itself: {process.communicate()[1][-2000:]}")
            time.sleep(0.1)
        process.kill()


def test_what_a_run_starts_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = config.load(train.TrainRecipe, "nano-stage2", [f"home={tmp_path}"], CONFIGS)
    run = runs.Run(str(tmp_path), "new")
    assert train.starting_weights(recipe, run) == str(train.NANO), "what ships"
    storage.write_bytes(run.recipe, b"init_from: where-it-began\n")
    assert train.starting_weights(recipe, run) == "where-it-began", "a run that goes on"
    with pytest.raises(SystemExit, match="init_from: .*elsewhere holds no model_index.json"):
        train.starting_weights(replace(recipe, init_from="elsewhere"), run)

    paper = config.load(train.TrainRecipe, "paper-stage2", [f"home={tmp_path}"], CONFIGS)
    with pytest.raises(SystemExit, match="no finished run of paper stage 1; run that stage first, or write init_from="):
        train.starting_weights(paper, runs.Run(str(tmp_path), "other"))


def test_an_ablation_is_saved_without_its_parts_and_goes_on_only_without_them(tmp_path: Path) -> None:
    overrides = ["init_from=fresh", "without=[regions, hvca]"]
    ablation = train.read_recipe(["--stage", "3", *overrides])
    train.load_pipeline(ablation, train.FRESH).save_pretrained(tmp_path)
    saved = FireEditPipeline.from_pretrained(tmp_path)
    assert (saved.detector, saved.region_encoder, saved.hvca) == (None, None, None) and saved.tati is not None
    assert train.load_pipeline(ablation, str(tmp_path)).unet is not None
    with pytest.raises(ValueError, match=r"has no detector; write without=\[...\]"):
        train.load_pipeline(train.read_recipe(["--stage", "3"]), str(tmp_path))


@pytest.mark.parametrize("file", sorted(path.stem for path in CONFIGS.glob("*-stage?.yaml")))
def test_every_recipe_that_ships_can_be_read(file: str) -> None:
    name, _, stage_number = file.rpartition("-stage")
    stage = int(stage_number)
    recipe = train.read_recipe(["--stage", stage_number, "--config", name])
    assert (recipe.model, recipe.stage) == (name.partition("-")[0], stage)
    assert set(recipe.mixture) <= set(CORPORA)
    paper = {1: (2e-4, 120_000, 0.0), 2: (1e-5, 5_000, 0.001), 3: (1e-5, 25_000, 0.001)}
    if recipe.model == "nano":
        shares = {name: weight / sum(recipe.mixture.values()) for name, weight in recipe.mixture.items()}
        assert recipe.minutes and recipe.ema
        assert stage == 1 or (shares["llava_instruct"] >= 0.12 and shares["refcoco"] + shares["grefcoco"] >= 0.15)
    if recipe.model == "paper":
        assert (recipe.optimizer.lr, recipe.steps, recipe.optimizer.warmup_ratio) == paper[stage]
        assert recipe.optimizer.weight_decay == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stage", "2", "stepz=3"], "nano-stage2.yaml: unknown key 'stepz'; did you mean 'steps'?"),
        (["--stage", "2", "--config", "nowhere.yaml"], "nowhere.yaml: no such recipe file"),
        (["--stage", "2", "log_every=0"], "log_every: Input should be greater than 0, found 0"),
        (["--stage", "2", "mixture={}"], "mixture: no corpus"),
        (["--stage", "2", "stage=3"], "this is a recipe of stage 3; write --stage 3"),
        (["--stage", "2", "minutes=null"], "found no end of the run; write steps=N, minutes=M, or both"),
        (["--stage", "2", "ema=1"], "ema: Input should be less than 1, found 1"),
        (["--stage", "2", "--config", "paper", "engine.zero_stage=3", "ema=0.99"], "ZeRO 3 shards the weights"),
        (["--stage", "2", "engine.zero_stage=2"], "muon_lr: found ZeRO 2 in fp32, which flattens matrices"),
    ],
)
def test_a_wrong_command_says_what_to_write(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        train.read_recipe(arguments)
    assert message in capsys.readouterr().err


def test_options_may_stand_anywhere_in_the_command() -> None:
    recipe = train.read_recipe(["steps=3", "--stage", "2", "seed=4"])
    assert (recipe.stage, recipe.steps, recipe.seed) == (2, 3, 4)


def test_the_paper_is_trained_on_both_mixtures_of_its_table() -> None:
    less, more = (train.read_recipe(["--stage", "2", "--config", name]).mixture for name in ("paper-771k", "paper"))
    assert sum(less.values()) == pytest.approx(1) and set(more) - set(less) == {"ultraedit"}
    assert more["ultraedit"] == more["instructpix2pix"] == more["magicbrush"]
    assert {name: more[name] for name in less} == less
