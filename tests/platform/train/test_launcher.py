"""Workers of Ray Train train as processes without Ray do: killed, in other numbers, and beside idle ones."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch.distributed as dist

from fireedit.platform import storage
from fireedit.platform.train import checkpoints
from fireedit.platform.train.launcher import RaySession, launch
from fireedit.platform.train.loop import DivergedError, LoopConfig
from fireedit.platform.train.progress import from_lines
from fireedit.platform.train.runs import Run
from fireedit.platform.train.session import LocalSession, local_session, process_group
from fireedit.platform.train.workers import WorkersConfig
from tests.factories import spawn
from tests.platform.train.line import PASSES, LineTask, line_loop

KEEP, SAVE_EVERY = 2, 2


def sit(
    session: RaySession | LocalSession, run: Run, steps: int, killed_at: int = 0, nan_at: int | None = None
) -> None:
    """Train a sitting, and note in a file of each worker its number and the batches that it has seen.

    Args:
        killed_at: step in which the second worker kills itself, once in the life of the run.
        nan_at: number of the batch whose loss is NaN.
    """
    flag = Path(run.folder, "killed")

    def kill() -> None:
        if not flag.exists():
            while checkpoints.latest(run.folder) != checkpoints.path_of(run.folder, killed_at - 1):
                time.sleep(0.05)  # it is being written
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    task = LineTask(session.rank, session.workers, {killed_at: kill} if session.rank == 1 else {}, nan_at=nan_at)
    loop = line_loop(session, task, run.folder, LoopConfig(steps=steps, log_every=1, save_every=SAVE_EVERY))
    began = loop.step
    loop.train()
    with Path(run.folder, f"worker-{session.rank}.jsonl").open("a") as file:
        file.write(json.dumps({"workers": session.workers, "began": began, "seen": task.seen}) + "\n")


def on_ray(session: RaySession, config: dict[str, Any]) -> None:
    sit(session, session.run, config["steps"], config["killed_at"])


def ray_sitting(run: Run, count: int | tuple[int, int], steps: int, killed_at: int = 0) -> None:
    workers = WorkersConfig(count=count, cpus=0.5, max_failures=1)
    launch(on_ray, {"steps": steps, "killed_at": killed_at}, workers, run, keep=KEEP, passes=PASSES)


def pair(rank: int, run: Run, steps: int) -> None:
    """Train an unbroken run on one of two processes without Ray."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2"}
    dist.init_process_group("gloo", init_method=f"file://{run.home}/rendezvous", rank=rank, world_size=2)
    with local_session(run.folder, KEEP, run.stop) as session:
        sit(session, run, steps)
    dist.destroy_process_group()


def notes(run: Run, rank: int) -> list[dict[str, Any]]:
    """Read what the sittings of a worker noted."""
    path = Path(run.folder, f"worker-{rank}.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def losses(run: Run) -> dict[float, float]:
    rows = from_lines(storage.read_bytes(run.metrics))
    assert len({row["step"] for row in rows}) == len(rows), "every step once"
    return {row["step"]: row["loss"] for row in rows}


def steps_of(run: Run) -> list[str]:
    return [name for name in storage.names(run.folder) if name.startswith(checkpoints.PREFIX)]


def logged(text: str) -> Iterator[Path]:
    """Find the logs of Ray's workers that hold a text."""
    folder = Path(ray._private.worker._global_node.get_logs_dir_path())
    return (path for path in folder.glob("worker-*") if text in path.read_text(errors="replace"))


@pytest.mark.ray
@pytest.mark.soak
def test_a_run_is_killed_resized_on_ray_and_off_it_and_trains_as_an_unbroken_one(
    ray_session: None, tmp_path: Path
) -> None:
    """The run has two workers, one of which is killed; then one, without Ray; then three, one of which is idle."""
    whole, broken = (Run(str(tmp_path), name) for name in ("whole", "broken"))
    spawn(pair, (whole, 8), 2)

    ray_sitting(broken, count=2, steps=4, killed_at=3)
    assert Path(broken.folder, "killed").exists()
    for rank in range(2):
        assert notes(broken, rank) == [{"workers": 2, "began": 2, "seen": [*range(2 * PASSES + rank, 4 * PASSES, 2)]}]
    unbroken = losses(whole)
    assert losses(broken) == {step: unbroken[step] for step in range(1, 5)}, "bit for bit"
    assert steps_of(broken) == [checkpoints.name_of(step) for step in (2, 4)]

    with process_group(gpus=False), local_session(broken.folder, 1, broken.stop) as session:
        sit(session, broken, steps=6)
    assert notes(broken, 0)[1:] == [{"workers": 1, "began": 4, "seen": [*range(4 * PASSES, 6 * PASSES)]}]
    assert steps_of(broken) == [checkpoints.name_of(6)], "those that Ray knows are gone"

    storage.write_bytes(broken.stop, b"")  # of an earlier sitting
    ray_sitting(broken, count=(1, 3), steps=8)
    for rank in range(2):
        seen = [*range(6 * PASSES + rank, 8 * PASSES, 2)]
        assert notes(broken, rank)[-1] == {"workers": 2, "began": 6, "seen": seen}
    assert notes(broken, 2) == [] and any(logged(f"1 of 3 workers are idle: the {PASSES} passes of a step go evenly"))
    assert losses(broken) == pytest.approx(unbroken, rel=1e-5)
    assert checkpoints.latest(broken.folder) == checkpoints.path_of(broken.folder, 8)


def diverging(session: RaySession, config: dict[str, Any]) -> None:
    with Path(session.run.folder, f"began-{session.rank}").open("a") as file:
        file.write("once")
    sit(session, session.run, steps=6, nan_at=3 * PASSES + 1)


@pytest.mark.ray
@pytest.mark.soak
def test_workers_whose_training_diverges_are_not_restarted_and_the_driver_gets_the_reason(
    ray_session: None, tmp_path: Path
) -> None:
    run = Run(str(tmp_path), "diverging")
    with pytest.raises(DivergedError, match="step 4: training has diverged to loss nan"):
        launch(diverging, {}, WorkersConfig(count=2, cpus=0.5, max_failures=2), run, keep=KEEP, passes=PASSES)
    assert [Path(run.folder, f"began-{rank}").read_text() for rank in range(2)] == ["once", "once"]
    assert steps_of(run) == [checkpoints.name_of(2)]
