"""Validations are recorded by step; one that fails, even by being killed, is counted and ends no training."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fireedit.platform import storage
from fireedit.platform.train.checkpoints import path_of
from fireedit.platform.train.launcher import RaySession, launch
from fireedit.platform.train.progress import Row
from fireedit.platform.train.runs import Run
from fireedit.platform.train.session import local_session, process_group
from fireedit.platform.train.validation import FAILED, attempt, record, rows_of
from fireedit.platform.train.workers import WorkersConfig

STATE = {"workers": 1, "attempt": "a", "shapes": {}}
KILLED, WRONG, RIGHT = 1, 2, 3
"""Steps of three checkpoints, by their validation's end."""


def writer(step: int) -> Callable[[str], None]:
    """Make the function that writes an empty, complete checkpoint."""

    def write(address: str) -> None:
        storage.write_bytes(storage.join(address, "shard-00000-of-00001-a.safetensors"), b"")
        storage.write_bytes(storage.join(address, "state.json"), json.dumps({"step": step, **STATE}).encode())

    return write


def validate(address: str) -> Row:
    step = json.loads(storage.read_bytes(storage.join(address, "state.json")))["step"]
    if step == KILLED:
        os._exit(1)
    if step == WRONG:
        raise ValueError("found a wrong row\nand more")
    return {"step": step, "validation/loss": 0.5}


def test_a_failure_is_told_in_a_line_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(str(tmp_path), "first")
    writer(WRONG)(path_of(run.folder, WRONG))
    row = attempt(validate, run, path_of(run.folder, WRONG))
    assert row == {"step": WRONG, FAILED: 1.0} == rows_of(run)[0]
    told = capsys.readouterr().err.splitlines()
    assert told == [f"validation of step {WRONG} failed, training goes on: ValueError: found a wrong row"]


def test_a_repeated_validation_takes_the_place_of_what_was_lost(tmp_path: Path) -> None:
    run = Run(str(tmp_path), "first")
    assert rows_of(run) == []
    for step, loss in ((0, 3.0), (5, 2.0), (10, 1.0), (5, 2.5)):
        record(run, {"step": step, "validation/loss": loss})
    assert [(row["step"], row["validation/loss"]) for row in rows_of(run)] == [(0, 3.0), (5, 2.5)]


def test_a_local_session_validates_complete_checkpoints(tmp_path: Path) -> None:
    run = Run(str(tmp_path), "local")
    with process_group(gpus=False), local_session(run.folder, keep=2, stop_file=run.stop) as session:
        validated = list[Row]()
        session.validate = lambda address: validated.append(validate(address))
        session.save(RIGHT, writer(RIGHT), {})
        session.save(RIGHT + 1, writer(RIGHT + 1), {}, validate=True)
        assert [row["step"] for row in validated] == [RIGHT + 1]


def loop(session: RaySession, config: dict[str, Any]) -> None:
    """Write the checkpoints on a worker of Ray Train."""
    for step in (KILLED, WRONG, RIGHT):
        session.save(step, writer(step), {"step": step}, validate=True)
    session.wait()


@pytest.mark.ray
def test_a_killed_validation_on_ray_ends_no_training(ray_session: None, tmp_path: Path) -> None:
    run, workers = Run(str(tmp_path), "ray"), WorkersConfig(count=1, cpus=0.5, max_failures=0)
    result = launch(loop, {}, workers, run, keep=1, passes=1, validate=validate, validation_resources={"CPU": 0.5})
    assert result.metrics is not None and result.metrics["validation/loss"] == 0.5
    assert rows_of(run) == [{"step": KILLED, FAILED: 1.0}, {"step": WRONG, FAILED: 1.0}]
