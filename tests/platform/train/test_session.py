"""A process that trains without Ray writes checkpoints beside training, and stops when it is asked to."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from fireedit.platform import storage
from fireedit.platform.train import checkpoints, session
from fireedit.platform.train.checkpoints import CheckpointState, Fragment, Snapshot
from fireedit.platform.train.session import Control, LocalSession, local_session, process_group, tell_stop


@pytest.fixture
def control() -> Iterator[Control]:
    """A process group of this process alone."""
    with process_group(gpus=False) as control:
        yield control


@pytest.fixture
def opened(control: Control, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalSession]:
    """A session in a run's empty folder, which keeps two checkpoints and looks for its stop file all the time."""
    monkeypatch.setattr(session, "POLL_S", 0.01)
    with local_session(str(tmp_path), 2, str(tmp_path / "stop")) as opened:
        yield opened


def writes(step: int, until: threading.Event | None = None) -> Callable[[str], None]:
    """Make the callback that writes a checkpoint of one worker, once `until` is set."""

    def write(address: str) -> None:
        if until is not None:
            assert until.wait(10)
        snapshot = Snapshot()
        snapshot.take([Fragment("weight", 0, {"weights": torch.full((3,), float(step))})])
        snapshot.write(address, CheckpointState(step, 1, session.attempt_name(), {"weight": [3]}), rank=0)

    return write


def soon(holds: Callable[[], object]) -> bool:
    """Wait a little until something holds."""
    for _ in range(1000):
        if holds():
            return True
        time.sleep(0.01)
    return False


def test_a_process_alone_is_the_only_worker(control: Control, opened: LocalSession) -> None:
    assert (opened.rank, opened.workers) == (0, 1)
    assert control.first("mine") == "mine" and not opened.leaves_soon()
    assert control.total(torch.tensor([1, 2])).tolist() == [1.0, 2.0]
    assert control.mean({"loss": torch.tensor(0.5), "lr": 2}) == {"loss": 0.5, "lr": 2.0}


def test_a_checkpoint_is_written_while_training_goes_on(opened: LocalSession) -> None:
    until = threading.Event()
    assert opened.latest() is None
    opened.save(3, writes(3, until), {})
    assert opened.stop_reason() == "" and checkpoints.latest(opened.folder) is None
    until.set()
    opened.wait()
    assert checkpoints.latest(opened.folder) == opened.latest() == checkpoints.path_of(opened.folder, 3)


def test_only_the_newest_checkpoints_are_kept(opened: LocalSession) -> None:
    half_written = checkpoints.path_of(opened.folder, 9)
    storage.write_bytes(storage.join(half_written, "state.json.part"), b"")
    assert opened.latest() is None and not storage.exists(half_written)
    for step in range(1, 6):
        opened.wait()
        opened.save(step, writes(step), {})
    opened.wait()
    names = [name for name in storage.names(opened.folder) if name.startswith("step-")]
    assert names == [checkpoints.name_of(4), checkpoints.name_of(5)]


@pytest.mark.parametrize("learn", [LocalSession.stop_reason, LocalSession.wait])
def test_a_checkpoint_that_cannot_be_written_ends_training_at_the_next_step(
    opened: LocalSession, learn: Callable[[LocalSession], None]
) -> None:
    def write(address: str) -> None:
        raise OSError(28, "No space left on device", address)

    opened.save(3, write, {})
    with pytest.raises(OSError, match="No space left.*step-00000003"):
        for _ in range(1000):
            learn(opened)
            time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_ask_to_stop_for_the_time_of_a_session(control: Control, tmp_path: Path, number: int) -> None:
    before, taken = signal.getsignal(number), list[int]()
    signal.signal(number, lambda number, _: taken.append(number))
    with local_session(str(tmp_path), 1, str(tmp_path / "stop")) as opened:
        assert opened.stop_reason() == ""
        for _ in range(2):  # as torchrun and a terminal both send one
            os.kill(os.getpid(), number)
            assert soon(opened.stop_reason) and opened.stop_reason() == "a signal" and not taken
    os.kill(os.getpid(), number)
    assert soon(lambda: taken)
    signal.signal(number, before)


def test_a_stop_file_ends_one_sitting(opened: LocalSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert opened.stop_reason() == ""
    tell_stop(str(tmp_path / "stop"))
    assert soon(opened.stop_reason) and opened.stop_reason() == "the stop file"
    assert "stopping: the run saves a checkpoint" in capsys.readouterr().err
    with local_session(str(tmp_path), 2, str(tmp_path / "stop")) as next_sitting:
        time.sleep(0.1)
        assert next_sitting.stop_reason() == "" and not (tmp_path / "stop").exists()
