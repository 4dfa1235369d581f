"""Runs are found by stage and sizes, the last finished first."""

import os
from pathlib import Path

from fireedit.platform import storage
from fireedit.platform.train import runs


def finish(home: Path, name: str, model: str, stage: int, at: int, without: str = "[]") -> None:
    """Write a finished run whose weights were modified `at` seconds."""
    run = runs.Run(str(home), name)
    storage.write_bytes(run.recipe, f"model: {model}\nstage: {stage}\nwithout: {without}\n".encode())
    index = storage.join(run.weights, "model_index.json")
    storage.write_bytes(index, b"{}")
    os.utime(index, (at, at))


def test_the_last_finished_run_is_found_whatever_its_name(tmp_path: Path) -> None:
    finish(tmp_path, "z-first", "nano", 1, at=100)
    finish(tmp_path, "a-second", "nano", 1, at=200)
    finish(tmp_path, "other-stage", "nano", 2, at=300)
    finish(tmp_path, "other-size", "paper", 1, at=300)
    finish(tmp_path, "ablation", "nano", 1, at=300, without="[hvca]")
    storage.write_bytes(runs.Run(str(tmp_path), "unfinished").recipe, b"model: nano\nstage: 1\n")
    latest = runs.latest_finished(str(tmp_path), 1, "nano".__eq__)
    assert latest == runs.Run(str(tmp_path), "a-second") and latest.finished


def test_no_run_is_found_if_none_has_finished(tmp_path: Path) -> None:
    assert runs.latest_finished(str(tmp_path), 1, lambda model: True) is None
