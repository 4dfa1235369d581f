"""A time box: order and training time of tasks, and what is left of them after failures and deadlines."""

import subprocess
import time
from pathlib import Path

import pytest

from fireedit.jobs.training.timebox import Reports, TimeBox, TimedTask, archive

PRINTS_MINUTES = "import json, sys; print(json.dumps({'minutes': float(sys.argv[-1].partition('=')[2])}))"
WAITS = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit('saved')); time.sleep(60)"


def prints_minutes(name: str, end: float, *needs: str, overhead_s: float = 0.0) -> TimedTask:
    return TimedTask(name=name, end=end, needs=needs, command=("-c", PRINTS_MINUTES), overhead_s=overhead_s)


def run(tasks: list[TimedTask], seconds: float, folder: Path, slack_s: float = 60.0) -> Reports:
    return TimeBox(tasks, seconds, {}, folder, slack_s).run()


def test_a_task_starts_when_its_needs_are_done_and_has_the_time_until_its_end(tmp_path: Path) -> None:
    tasks = [prints_minutes("painter", 0.9, "clip", overhead_s=1.0), prints_minutes("clip", 0.3)]
    reports = run(tasks, 6.0, tmp_path)
    assert list(reports) == ["clip", "painter"]
    assert 0.3 * 6 - 1 < 60 * reports["clip"]["minutes"] <= 0.3 * 6
    assert 60 * reports["painter"]["minutes"] <= 0.9 * 6 - 1.0
    assert (tmp_path / "painter.log").read_text().startswith("{")


def test_a_task_that_needs_a_failed_one_is_not_started(tmp_path: Path) -> None:
    broken = TimedTask(name="clip", end=1, command=("-c", "import sys; sys.exit('no scenes')"))
    reports = run([broken, prints_minutes("painter", 1, "clip"), prints_minutes("vision", 1)], 5, tmp_path)
    assert "exit code 1: no scenes" in reports["clip"]["error"]
    assert reports["painter"] == {"error": "needs clip, which failed"} and "minutes" in reports["vision"]


def test_a_task_can_wait_for_another_without_needing_it(tmp_path: Path) -> None:
    broken = TimedTask(name="clip", end=1, command=("-c", "import sys; sys.exit(1)"))
    later = TimedTask(name="llm", end=1, after=("clip", "a part left out"), command=("-c", PRINTS_MINUTES))
    reports = run([later, broken], 5, tmp_path)
    assert list(reports) == ["clip", "llm"] and "minutes" in reports["llm"]


def test_a_task_past_its_deadline_is_stopped_and_its_output_stays(tmp_path: Path) -> None:
    began = time.monotonic()
    reports = run([TimedTask(name="clip", end=1, command=("-c", WAITS))], 1.0, tmp_path, slack_s=1.0)
    assert reports["clip"] == {"stopped": "saved"} and time.monotonic() - began < 20


def test_an_archive_is_unpacked_from_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "weights").write_bytes(bytes(range(256)) * 100)
    (folder / ".lock").touch()
    files = archive(folder, tmp_path / "out", file_bytes=10_240)
    assert [file.name for file in files] == ["nano.tar.0", "nano.tar.1", "nano.tar.2", "nano.tar.3"]
    assert all(file.stat().st_size <= 10_240 for file in files)
    (folder / "unet" / "weights").write_bytes(b"less")
    (file,) = archive(folder, tmp_path / "out", file_bytes=10_240)
    assert list((tmp_path / "out").iterdir()) == [file], "stale files are removed"
    subprocess.run(f"cat {tmp_path}/out/nano.tar.* | tar x -C {tmp_path}", shell=True, check=True)
    assert (tmp_path / "nano" / "unet" / "weights").read_bytes() == b"less"
    assert not (tmp_path / "nano" / ".lock").exists()
    with pytest.raises(ValueError, match="at most 6 files"):
        archive(folder, tmp_path / "out", file_bytes=100)
