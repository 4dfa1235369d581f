"""A sitting of a run steps, reports, saves and stops when it should, and the next one goes on where it ended."""

import json
import math
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from fireedit.platform import storage
from fireedit.platform.train import checkpoints, loop, session
from fireedit.platform.train.checkpoints import CheckpointFiles
from fireedit.platform.train.engine import Engine
from fireedit.platform.train.loop import DivergedError, Ended, LoopConfig
from fireedit.platform.train.optimizer import OptimizerConfig
from fireedit.platform.train.progress import Row, from_lines
from fireedit.platform.train.replicated import ReplicatedEngine
from fireedit.platform.train.session import LocalSession, Write, process_group
from fireedit.platform.train.writers import TensorBoard, Writer
from tests.factories import spawn
from tests.platform.train.line import PASSES, LineBatch, LineLosses, LineTask, line_loop

SCHEDULED = OptimizerConfig(lr=0.1, warmup_ratio=0.2, cooldown_ratio=0.3)


class NotingSession(LocalSession):
    """Session that notes the checkpoints that are to be validated, and says that a node leaves if `leaves`."""

    leaves = False

    def __init__(self, folder: Path, keep: int = 100):
        super().__init__(str(folder), keep, str(folder / "stop"))
        self.validated: list[int] = []

    def save(self, step: int, write: Write, row: Mapping[str, float], validate: bool = False) -> None:
        assert row["step"] == step
        self.validated += [step] if validate else []
        super().save(step, write, row, validate)

    def leaves_soon(self) -> bool:
        return self.leaves


@dataclass
class Sitting:
    """Rest of a sitting."""

    ended: Ended
    task: LineTask
    rows: list[Row]
    validated: list[int]

    @property
    def losses(self) -> dict[float, float]:
        return {row["step"]: row["loss"] for row in self.rows}


def sit(
    folder: Path,
    at: Mapping[int, Callable[[], object]] | None = None,
    more: Callable[[int], list[Writer]] = lambda start: [],
    leaves: bool = False,
    nan_at: int | None = None,
    **config: Any,
) -> Sitting:
    """Train a sitting of the run in `folder` in this process group, of 6 steps if `config` says nothing else."""
    with closing(NotingSession(folder)) as opened:
        opened.leaves = leaves
        task = LineTask(opened.rank, opened.workers, at or {}, nan_at=nan_at)
        loop_config = LoopConfig(**{"steps": 6, "log_every": 1} | config)
        ended = line_loop(opened, task, str(folder), loop_config, SCHEDULED, more).train()
        opened.control.barrier()
    metrics = storage.join(str(folder), "metrics.jsonl")
    return Sitting(ended, task, from_lines(storage.read_bytes(metrics)), opened.validated)


@pytest.fixture
def alone() -> Iterator[None]:
    """A process group of this process alone."""
    with process_group(gpus=False):
        yield


def steps_of(folder: Path) -> list[int]:
    """Steps of the checkpoints in a run's folder, all of them complete."""
    names = [name for name in storage.names(str(folder)) if name.startswith(checkpoints.PREFIX)]
    assert all(checkpoints.is_complete(storage.join(str(folder), name)) for name in names)
    return [int(name.removeprefix(checkpoints.PREFIX)) for name in names]


def weights(folder: Path, kind: str = "weights") -> dict[str, list[float]]:
    address = checkpoints.latest(str(folder))
    assert address is not None
    with CheckpointFiles.open(address) as files:
        return {name: values.flatten().tolist() for name, values in files.tensors(kind)}


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    ("config", "reports", "saves", "validations"),
    [
        ({"log_every": 4, "save_every": 100}, [4, 8, 10], [10], []),
        ({"log_every": 4, "save_every": 3}, [3, 4, 6, 8, 9, 10], [3, 6, 9, 10], []),
        ({"log_every": 100, "validate_every": 4}, [4, 8, 10], [0, 4, 8, 10], [0, 4, 8, 10]),
        ({"log_every": 100, "validate_every": 5, "save_every": 4}, [4, 5, 8, 10], [0, 4, 5, 8, 10], [0, 5, 10]),
        ({"log_every": 5, "save_every_s": 1e-9}, list(range(1, 11)), list(range(1, 11)), []),
        ({"log_every": 5, "save_every_s": 1e9}, [5, 10], [10], []),
    ],
)
def test_a_run_reports_saves_and_validates_when_it_is_to(
    tmp_path: Path, config: dict[str, Any], reports: list[int], saves: list[int], validations: list[int]
) -> None:
    """The last step is always reported, saved and validated; a step that is saved is also reported."""
    sitting = sit(tmp_path, steps=10, **config)
    assert sitting.ended == Ended(10, "")
    assert [row["step"] for row in sitting.rows] == reports
    assert steps_of(tmp_path) == sitting.task.saved == saves and sitting.validated == validations
    assert sitting.task.seen == list(range(10 * PASSES)) and sitting.rows[-1]["batches"] == 10 * PASSES
    assert {"lr", "grad_norm", "samples_per_s", "data_wait_share", "left_s"} < set(sitting.rows[-1])
    assert sitting.rows[-1]["left_s"] == 0


@pytest.mark.usefixtures("alone")
def test_a_signal_saves_and_ends_and_the_next_sitting_repeats_the_losses(tmp_path: Path) -> None:
    whole = sit(tmp_path / "whole")
    stop = {3: lambda: os.kill(os.getpid(), signal.SIGTERM)}
    first = sit(tmp_path / "broken", at=stop, save_every=2)
    assert first.ended == Ended(3, "a signal") and steps_of(tmp_path / "broken") == [2, 3]
    again = sit(tmp_path / "broken")
    assert again.ended == Ended(6, "") and again.losses == whole.losses, "bit for bit"
    assert first.task.seen + again.task.seen == whole.task.seen
    for kind in ("weights", "averages", "exp_avg", "exp_avg_sq"):
        assert weights(tmp_path / "broken", kind) == weights(tmp_path / "whole", kind)


@pytest.mark.usefixtures("alone")
def test_a_killed_run_goes_on_from_its_newest_checkpoint_and_has_every_step_once(tmp_path: Path) -> None:
    whole, boards = sit(tmp_path / "whole"), str(tmp_path / "tensorboard")

    def crash() -> None:
        raise RuntimeError("power cut")

    def board(start: int) -> list[Writer]:
        return [TensorBoard(boards, start)]

    with pytest.raises(RuntimeError, match="power cut"):
        sit(tmp_path / "broken", at={5: crash}, more=board, save_every=3)
    rows = from_lines((tmp_path / "broken" / "metrics.jsonl").read_bytes())
    assert [row["step"] for row in rows] == [1, 2, 3, 4], "a step was reported that is lost"
    again = sit(tmp_path / "broken", more=board)
    assert again.losses == whole.losses and [row["step"] for row in again.rows] == [1, 2, 3, 4, 5, 6]
    events = EventAccumulator(boards)
    events.Reload()
    shown = [(event.step, event.value) for event in events.Scalars("loss")]
    assert len(shown) == 6 and dict(shown) == pytest.approx(whole.losses, rel=1e-6), "TensorBoard has float32"


@pytest.mark.usefixtures("alone")
def test_a_stop_file_saves_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "POLL_S", 0.001)
    sitting = sit(tmp_path, at={3: (tmp_path / "stop").touch}, steps=10**6, log_every=10**6)
    assert sitting.ended.stopped == "the stop file" and 3 <= sitting.ended.step < 10**6
    assert steps_of(tmp_path) == [sitting.ended.step] == [row["step"] for row in sitting.rows]
    more = sit(tmp_path, steps=sitting.ended.step + 2)
    assert more.ended == Ended(sitting.ended.step + 2, ""), "the file is of the earlier sitting"


@pytest.mark.usefixtures("alone")
def test_minutes_end_a_run_over_all_its_sittings(tmp_path: Path) -> None:
    stop = {5: lambda: os.kill(os.getpid(), signal.SIGTERM)}
    first = sit(tmp_path, at=stop, steps=None, minutes=0.02)
    second = sit(tmp_path, steps=None, minutes=0.02)
    assert first.ended == Ended(5, "a signal") and second.ended.step > 5 and second.ended.stopped == ""
    address = checkpoints.latest(str(tmp_path))
    assert address is not None and 1.2 <= checkpoints.read_state(address).position["elapsed_s"] < 10
    left = [row["left_s"] for row in second.rows]
    assert left == sorted(left, reverse=True) and left[-1] == 0
    third = sit(tmp_path, steps=None, minutes=0.01)
    assert third.ended == second.ended and third.rows == second.rows, "a run with less time than it had is over"


@pytest.mark.usefixtures("alone")
def test_a_node_that_is_about_to_go_has_a_checkpoint_saved_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "LOOK_S", 0.0)
    sit(tmp_path, leaves=True)
    assert steps_of(tmp_path) == [1, 6]


@pytest.mark.usefixtures("alone")
def test_a_resumed_run_is_not_validated_at_its_beginning_again(tmp_path: Path) -> None:
    def crash() -> None:
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        sit(tmp_path, at={1: crash}, validate_every=6)
    assert steps_of(tmp_path) == [0]
    assert sit(tmp_path, validate_every=6).validated == [6]


@pytest.mark.usefixtures("alone")
def test_a_profile_is_a_trace_of_some_steps(tmp_path: Path) -> None:
    sit(tmp_path, profile=2)
    (path,) = (tmp_path / "traces").iterdir()
    assert path.name == "steps-3-4.json"
    names = {event.get("name", "") for event in json.loads(path.read_text())["traceEvents"]}
    assert {"aten::linear", "ProfilerStep#2", "ProfilerStep#3"} < names and "ProfilerStep#4" not in names


@pytest.mark.usefixtures("alone")
def test_a_run_shorter_than_its_profile_has_a_trace_of_what_there_was(tmp_path: Path) -> None:
    sit(tmp_path, profile=100)
    assert [path.name for path in (tmp_path / "traces").iterdir()] == ["steps-3-6.json"]


class FailingWriter:
    """Writer that fails at the third step."""

    def __init__(self) -> None:
        self.is_closed = False

    def write(self, row: Row) -> None:
        if row["step"] == 3:
            raise OSError("no room")

    def close(self) -> None:
        self.is_closed = True


@pytest.mark.usefixtures("alone")
def test_a_writer_that_fails_ends_the_sitting_and_all_writers_are_closed(tmp_path: Path) -> None:
    writers: list[FailingWriter] = []

    def failing(start: int) -> list[Writer]:
        writers[:] = [FailingWriter(), FailingWriter()]
        return [*writers]

    with pytest.raises(OSError, match="no room"):
        sit(tmp_path, more=failing)
    assert all(writer.is_closed for writer in writers)
    rows = from_lines((tmp_path / "metrics.jsonl").read_bytes())
    assert [row["step"] for row in rows] == [1, 2, 3]


@pytest.mark.usefixtures("alone")
def test_a_checkpoint_that_cannot_be_written_ends_the_sitting(tmp_path: Path) -> None:
    (tmp_path / checkpoints.name_of(2)).touch()
    with pytest.raises(OSError, match=checkpoints.name_of(2)):
        sit(tmp_path, save_every=2, steps=10**6)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("log_every", [1, 100])
def test_a_sitting_whose_loss_is_not_finite_ends_before_it_saves_and_the_next_goes_on(
    tmp_path: Path, log_every: int
) -> None:
    whole = sit(tmp_path / "whole", log_every=log_every)
    with pytest.raises(DivergedError, match=r"step [46]: training has diverged to loss nan.*lower optimizer\.lr"):
        sit(tmp_path / "broken", nan_at=3 * PASSES, save_every=3, log_every=log_every)
    assert steps_of(tmp_path / "broken") == [3]
    rows = from_lines((tmp_path / "broken" / "metrics.jsonl").read_bytes())
    assert rows[-1]["step"] == 3 and all(math.isfinite(value) for row in rows for value in row.values())
    sit(tmp_path / "broken", log_every=log_every)
    assert weights(tmp_path / "broken") == weights(tmp_path / "whole") and whole.ended.step == 6


@pytest.mark.usefixtures("alone")
def test_a_gradient_that_was_not_finite_ends_a_later_report_too(tmp_path: Path) -> None:
    """A loss may not depend on the weights that it has spoilt."""
    spoilt = torch.tensor(math.inf)

    class SpoilingTask(LineTask):
        def losses(self, engine: Engine, batch: LineBatch) -> LineLosses:
            losses = super().losses(engine, batch)
            if batch.number == 0:
                losses.total.register_hook(lambda _: spoilt)
            return losses if batch.number < PASSES else LineLosses(0 * next(iter_parameters(engine)).nan_to_num().sum())

    with closing(NotingSession(tmp_path)) as opened, pytest.raises(DivergedError, match="step 6: .* grad_norm nan"):
        line_loop(opened, SpoilingTask(0, 1), str(tmp_path), LoopConfig(steps=6, log_every=6)).train()
    assert steps_of(tmp_path) == []


def iter_parameters(engine: Engine) -> Iterator[Tensor]:
    assert isinstance(engine, ReplicatedEngine)
    return iter(engine.parameters)


def diverging_workers(rank: int, folder: Path) -> None:
    """Train on one of two processes, of which the second has a NaN in step 3."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    try:
        sit(folder / "run", nan_at=2 * PASSES + 1, save_every=2)
    except DivergedError as error:
        (folder / f"{rank}.txt").write_text(str(error))
    dist.destroy_process_group()


def test_two_workers_end_together_when_one_has_a_loss_that_is_not_finite(tmp_path: Path) -> None:
    spawn(diverging_workers, (tmp_path,), 2)
    first, second = ((tmp_path / f"{rank}.txt").read_text() for rank in range(2))
    assert first == second and first.startswith("step 3: training has diverged to loss nan")
    assert steps_of(tmp_path / "run") == [2]


def two_workers(rank: int, folder: Path) -> None:
    """Train on one of two processes; the second is sent SIGTERM in step 3 of the first sitting."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    stop = {3: lambda: os.kill(os.getpid(), signal.SIGTERM)} if rank else {}
    for name, at in (("whole", {}), ("broken", stop), ("broken", {})):
        sitting = sit(folder / name, at=at, save_every=2)
        report = {"ended": [sitting.ended.step, sitting.ended.stopped], "seen": sitting.task.seen}
        with (folder / f"{rank}.jsonl").open("a") as file:
            file.write(json.dumps(report) + "\n")
    dist.destroy_process_group()


@pytest.mark.usefixtures("alone")
def test_two_workers_stop_together_and_one_goes_on_with_the_same_samples(tmp_path: Path) -> None:
    spawn(two_workers, (tmp_path,), 2)
    reports = [[*map(json.loads, (tmp_path / f"{rank}.jsonl").read_text().splitlines())] for rank in range(2)]
    assert [report["ended"] for report in reports[0]] == [[6, ""], [3, "another worker was asked to"], [6, ""]]
    assert [report["ended"] for report in reports[1]] == [[6, ""], [3, "a signal"], [6, ""]]
    for rank, (whole, first, again) in enumerate(reports):
        assert whole["seen"] == first["seen"] + again["seen"] == list(range(rank, 6 * PASSES, 2))
    rows = {name: from_lines((tmp_path / name / "metrics.jsonl").read_bytes()) for name in ("whole", "broken")}
    losses = {name: {row["step"]: row["loss"] for row in of} for name, of in rows.items()}
    assert losses["broken"] == losses["whole"], "bit for bit"
    assert weights(tmp_path / "broken", "averages") == weights(tmp_path / "whole", "averages")

    storage.remove_folder(checkpoints.path_of(str(tmp_path / "broken"), 6))
    assert steps_of(tmp_path / "broken")[-1] == 4
    resized = sit(tmp_path / "broken")
    assert resized.task.seen == list(range(4 * PASSES, 6 * PASSES))
    assert resized.losses == pytest.approx(losses["whole"], rel=1e-5)
