"""The one command that makes the small model."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fireedit.jobs import nano
from fireedit.models.pipeline import FireEditPipeline

CHECKOUT = Path(__file__).resolve().parents[2]
WITHOUT_RAY = "clip,vision,scene_reader,llm,painter,pipeline"


def task_of(part: str, device: str = "cpu", *sets: str) -> list[str]:
    asked = argparse.Namespace(set=list(sets), tiny=False, init_from=None, minutes=20)
    return list(nano._task(part, 0.5, device, Path("/out"), Path("/home"), asked).command)


@pytest.mark.slow
def test_a_tiny_box_leaves_a_pipeline_that_edits(tmp_path: Path) -> None:
    command = ["jobs/nano.py", "--minutes", "1", "--tiny", "--device", "cpu", "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, *command, "--parts", WITHOUT_RAY], cwd=CHECKOUT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert set(report["parts"]) == set(WITHOUT_RAY.split(",")) and report["edits"]["full_inside_over_copy"] > 0
    assert not any("error" in one for one in report["parts"].values()), report["parts"]
    pipeline = FireEditPipeline.from_pretrained(tmp_path / "nano")
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline("Remove the dog.", np.zeros((64, 64, 3), np.uint8)).images[0].size == (64, 64)
    assert (tmp_path / "nano" / "figures" / "edits.png").is_file()
    assert sum(file.stat().st_size for file in tmp_path.glob("nano.tar.*")) > 20e6
    assert "until  after" in done.stderr.splitlines()[1], "the plan is told first"


def test_parts_that_are_asked_for_fill_the_whole_box() -> None:
    for device, ends in nano.ENDS.items():
        assert set(ends) == set(nano.PARTS), device
        assert nano._ends(nano.PARTS, ends) == ends
        assert nano._ends(["stage2", "stage3"], ends)["stage3"] == 1.0
        assert nano._ends(["clip", "painter"], ends)["painter"] == 1.0


def test_what_a_part_needs_ends_before_it() -> None:
    for ends in nano.ENDS.values():
        for part, needs in nano.NEEDS.items():
            assert all(ends[need] < ends[part] for need in needs), part


def test_a_setting_for_one_part_overrides_the_machines() -> None:
    command = task_of("painter", "cuda", "painter:batch=32", "clip:batch=8")
    assert command.index("batch=32") > command.index("batch=768") and "batch=8" not in command


def test_a_short_box_on_cpus_draws_fewer_scenes() -> None:
    assert task_of("corpora")[-2:] == ["scenes.rows=500", "1:scenes.rows=4000"]
    assert not [word for word in task_of("corpora", "cuda") if "scenes.rows" in word]


def test_stage_2_starts_from_the_stage_before_and_the_painter_as_it_is_then() -> None:
    asked = argparse.Namespace(set=[], tiny=False, init_from=None)
    task = nano._task("stage2", 0.5, "cpu", Path("/out"), Path("/home"), asked)
    assert "init_from=/home/runs/nano-1/weights" in task.command and set(task.needs) == {"stage1", "painter"}
    assert task.before is not None


def test_an_unknown_part_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        nano.main(["--parts", "vae"])
    assert "write some of corpora, clip" in capsys.readouterr().err
