"""A box of time: what waits for what, how long each has, and what is left when something fails or is cut off."""

import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from fireedit.jobs.training import timebox as box_job
from fireedit.jobs.training.timebox import Box, Task, archive

SAYS = "import json, sys; print(json.dumps({'minutes': float(sys.argv[-1].partition('=')[2])}))"
WAITS = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit('saved')); time.sleep(60)"


def says(name: str, end: float, *needs: str, overhead_s: float = 0.0) -> Task:
    return Task(name=name, end=end, needs=needs, command=("-c", SAYS), overhead_s=overhead_s)


def run(tasks: list[Task], seconds: float, folder: Path) -> tuple[dict[str, dict[str, Any]], list[str]]:
    finished: list[str] = []
    reports = Box(tasks, seconds, {}, folder).run(lambda task, report: finished.append(task.name))
    return reports, finished


def test_a_task_starts_when_its_needs_are_done_and_has_the_time_until_its_end(tmp_path: Path) -> None:
    tasks = [says("painter", 0.9, "clip", overhead_s=1.0), says("clip", 0.3)]
    reports, finished = run(tasks, 6.0, tmp_path)
    assert finished == ["clip", "painter"]
    assert 0.3 * 6 - 1 < 60 * reports["clip"]["minutes"] <= 0.3 * 6
    assert 60 * reports["painter"]["minutes"] <= 0.9 * 6 - 1.0
    assert (tmp_path / "painter.log").read_text().startswith("{")


def test_what_needs_a_task_that_failed_is_not_started(tmp_path: Path) -> None:
    broken = Task(name="clip", end=1, command=("-c", "import sys; sys.exit('no scenes')"))
    reports, _ = run([broken, says("painter", 1, "clip"), says("vision", 1)], 5, tmp_path)
    assert "exit code 1: no scenes" in reports["clip"]["error"]
    assert reports["painter"] == {"error": "needs clip, which failed"} and "minutes" in reports["vision"]


def test_a_task_can_wait_for_another_without_needing_it(tmp_path: Path) -> None:
    broken = Task(name="clip", end=1, command=("-c", "import sys; sys.exit(1)"))
    later = Task(name="scene_reader", end=1, after=("clip", "not asked for"), command=("-c", SAYS))
    reports, finished = run([later, broken], 5, tmp_path)
    assert finished == ["clip", "scene_reader"] and "minutes" in reports["scene_reader"]


def test_a_task_that_overruns_is_told_to_end_and_what_it_says_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(box_job, "SLACK_S", 1.0)
    began = time.monotonic()
    reports, _ = run([Task(name="clip", end=1, command=("-c", WAITS))], 1.0, tmp_path)
    assert reports["clip"] == {"stopped": "saved"} and time.monotonic() - began < 20


def test_the_plan_is_told_before_anything_starts(tmp_path: Path) -> None:
    plan = Box([says("clip", 0.5), says("painter", 1, "clip")], 600, {}, tmp_path).plan().splitlines()
    assert plan[1].split() == ["clip", "5.0", "min", "-"]
    assert plan[2].split() == ["painter", "10.0", "min", "clip"]


def test_an_archive_comes_back_whole_from_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(box_job, "ARCHIVE_BYTES", 10_240)
    folder = tmp_path / "small"
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "weights").write_bytes(bytes(range(256)) * 100)
    (folder / ".lock").touch()
    files = archive(folder, tmp_path / "out")
    assert [file.name for file in files] == ["nano.tar.0", "nano.tar.1", "nano.tar.2", "nano.tar.3"]
    assert all(file.stat().st_size <= 10_240 for file in files)
    (folder / "unet" / "weights").write_bytes(b"less")
    assert len(archive(folder, tmp_path / "out")) == 1 and len(list((tmp_path / "out").iterdir())) == 1, (
        "no stale parts"
    )
    subprocess.run(f"cat {tmp_path}/out/nano.tar.* | tar x -C {tmp_path}", shell=True, check=True)
    assert (tmp_path / "nano" / "unet" / "weights").read_bytes() == b"less"
    assert not (tmp_path / "nano" / ".lock").exists()


def test_a_folder_that_is_too_large_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(box_job, "ARCHIVE_BYTES", 100)
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "weights").write_bytes(bytes(5000))
    with pytest.raises(ValueError, match="at most 6 files"):
        archive(tmp_path / "small", tmp_path / "out")
