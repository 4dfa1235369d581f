"""Stages train on Ray from the command line to weights that the next stage finds, killed or not."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import ray

from fireedit.jobs import train
from fireedit.jobs.training.recipe import TrainRecipe
from fireedit.jobs.training.stage_task import open_corpora
from fireedit.models.pipeline import FireEditPipeline
from fireedit.platform import config
from fireedit.platform.train.progress import from_lines
from fireedit.platform.train.runs import Run
from tests.factories import read_ledger

ROOT = Path(__file__).parents[2]
SMALL = ["scenes.rows=24", "scenes.size=32", "engine.micro_batch=2", "log_every=1"]
SMALL += ["optimizer={lr: 1.0e-3}"]  # Muon costs more than a step of so few samples
SMALL += ["validate_every=null"]
SMALL += ["ingest.tasks=1"]  # a second process imports torch for longer than it reads
MIXTURE = "mixture={instructpix2pix: 1, llava_instruct: 1}"


def arguments(stage: int, home: Path, *overrides: str) -> list[str]:
    return ["--stage", str(stage), f"home={home}", *SMALL, *overrides]


def run_stage(stage: int, home: Path, capsys: pytest.CaptureFixture[str], *overrides: str) -> dict[str, Any]:
    train.main(arguments(stage, home, *overrides))
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def kill_at_step(step: int, home: Path, *overrides: str) -> None:
    """Train stage 2 in its own process on the session's Ray; kill it after the step and a registered checkpoint.

    Ray Train registers a checkpoint some steps after it was written.
    """
    name = next(word.partition("=")[2] for word in overrides if word.startswith("run="))
    metrics, checkpoints = (
        home / "runs" / name / file for file in ("metrics.jsonl", "checkpoint_manager_snapshot.json")
    )
    environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    command = [sys.executable, "jobs/train.py", *arguments(2, home, *overrides)]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        while not (checkpoints.exists() and metrics.exists() and from_lines(metrics.read_bytes())[-1]["step"] >= step):
            if process.poll() is not None:
                pytest.fail(f"training ended by itself: {process.communicate()[1][-2000:]}")
            time.sleep(0.1)
        process.kill()


@pytest.mark.ray
@pytest.mark.slow
def test_stages_follow_each_other_and_end_with_loadable_weights(
    ray_session: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stage 1 ends by its minutes; stage 2 starts from it."""
    first = run_stage(1, tmp_path, capsys, "minutes=0.05", "run=first")
    assert (first["run"], first["stage"], first["set_aside"]) == ("first", 1, 0) and first["step"] >= 1
    assert set(first["last"]) >= {"loss", "img", "align", "diversity", "samples_per_s", "data_wait_share"}

    whole = ["run=second", "save_every=2", "steps=4", MIXTURE, "objective.denoise_weight=1"]
    second = run_stage(2, tmp_path, capsys, *whole)
    run = Run(str(tmp_path), "second")
    recipe = config.load(TrainRecipe, run.recipe)
    assert (recipe.init_from, recipe.model.vlm.lora_rank) == (first["weights"], 8), "the saved recipe is whole"
    assert second["step"] == 4 and len(read_ledger(run.ledger)) == 8

    draws = [draw.corpus for draw in open_corpora(recipe).mixture.draws(0, 4 * second["step"])]
    shares = {name: figures["share"] for name, figures in second["mixture"].items()}
    assert shares == {name: count / len(draws) for name, count in Counter(draws).items()}
    assert all(figures["loss"] > 0 and figures["epochs"] > 0 for figures in second["mixture"].values())
    assert {figures["weight"] for figures in second["mixture"].values()} == {0.5}

    before, after = (FireEditPipeline.from_pretrained(stage["weights"]) for stage in (first, second))
    moved = {
        name
        for (name, old), new in zip(before.model.named_parameters(), after.model.parameters(), strict=True)
        if not old.equal(new)
    }
    assert any(name.startswith("unet.") for name in moved) and any("lora_" in name for name in moved)
    assert not [name for name in moved if name.startswith(("vision.", "detector.", "vae.", "tati.", "hvca."))]

    again = run_stage(2, tmp_path, capsys, *whole)
    assert again == second, "a finished run is not trained again"


@pytest.mark.ray
@pytest.mark.soak
def test_a_killed_run_whose_minutes_are_over_is_saved_as_it_is(
    ray_session: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = ["run=killed", "save_every=2", "steps=99", "init_from=fresh", MIXTURE]
    kill_at_step(3, tmp_path, *whole)
    saved = run_stage(2, tmp_path, capsys, *whole, "minutes=1e-6")
    assert 2 <= saved["step"] < 99 and len(read_ledger(Run(str(tmp_path), "killed").ledger)) >= 4
    FireEditPipeline.from_pretrained(saved["weights"])


@pytest.mark.ray
@pytest.mark.soak
def test_a_killed_run_resumes_to_the_sample_also_with_fewer_workers(
    ray_session: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = ["steps=8", "save_every=2", "init_from=fresh", MIXTURE]
    unbroken = run_stage(2, tmp_path, capsys, "run=unbroken", *whole)

    kill_at_step(3, tmp_path, "run=broken", *whole)
    alone = ["workers.count=1", "engine.accumulate=2"]
    with pytest.raises(SystemExit, match="has 4 samples a step, not 2"):
        run_stage(2, tmp_path, capsys, "run=broken", *whole, alone[0])
    kill_at_step(5, tmp_path, "run=broken", *whole, *alone)
    broken = run_stage(2, tmp_path, capsys, "run=broken", *whole)

    batches, unbroken_batches = (read_ledger(Run(str(tmp_path), name).ledger) for name in ("broken", "unbroken"))
    assert len(batches) == 16 and batches == unbroken_batches
    assert broken["last"]["loss"] == pytest.approx(unbroken["last"]["loss"], rel=1e-3)
    assert broken["mixture"].keys() == unbroken["mixture"].keys()
    for name, figures in unbroken["mixture"].items():
        assert broken["mixture"][name]["share"] == figures["share"]


@pytest.mark.ray
def test_a_run_larger_than_the_cluster_ends_with_a_sentence(ray_session: None, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="takes 129 CPUs and 2 GPUs, this Ray has 4 CPUs .* write workers.count"):
        train.main(arguments(2, tmp_path, "workers={count: 2, cpus: 64, gpus: 1}", "ingest.cpus_per_task=0.5"))
