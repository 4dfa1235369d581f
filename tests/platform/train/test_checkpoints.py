"""Checkpoints are read by any number of workers, and one that is not complete is never chosen."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fireedit.platform import storage
from fireedit.platform.train import checkpoints
from fireedit.platform.train.checkpoints import CheckpointError, CheckpointFiles, CheckpointState, Fragment, Snapshot

SHAPES = {"body.weight": [3, 4], "body.bias": [3]}
VALUES = {
    kind: {"body.weight": torch.arange(12.0) + first, "body.bias": torch.arange(3.0) - first}
    for kind, first in (("weights", 100.0), ("averages", 200.0))
}


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty folder of a run, on disk and in a bucket."""
    if request.param == "local":
        return str(tmp_path / "run")
    return storage.join(request.getfixturevalue("s3"), tmp_path.name, "run")


def fragments(rank: int, workers: int) -> list[Fragment]:
    """Runs of values that a worker holds if all values are dealt out in one row, as ZeRO does."""
    held, total, before = [], sum(len(values) for values in VALUES["weights"].values()), 0
    first, last = total * rank // workers, total * (rank + 1) // workers
    for name, values in VALUES["weights"].items():
        start, end = max(first - before, 0), min(last - before, len(values))
        if start < end:
            held.append(Fragment(name, start, {kind: VALUES[kind][name][start:end] for kind in VALUES}))
        before += len(values)
    return held


def state(step: int, workers: int = 2, attempt: str = "a") -> CheckpointState:
    return CheckpointState(step, workers, attempt, SHAPES, updates=step, position={"draws": 8 * step})


def write(folder: str, step: int, ranks: range, workers: int = 2, attempt: str = "a") -> str:
    """Write the parts of some workers; returns the checkpoint's address."""
    for rank in ranks:
        snapshot = Snapshot()
        snapshot.take(fragments(rank, workers))
        snapshot.write(checkpoints.path_of(folder, step), state(step, workers, attempt), rank)
    return checkpoints.path_of(folder, step)


def equals(found: dict[str, Tensor], kind: str) -> bool:
    return all(torch.equal(found[name].flatten(), values) for name, values in VALUES[kind].items())


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_values_are_read_whole_whatever_number_of_workers_wrote_them(tmp_path: Path, workers: int) -> None:
    address = write(str(tmp_path), 4, range(workers), workers)
    assert checkpoints.latest(str(tmp_path)) == address
    with CheckpointFiles.open(address) as files:
        assert files.state == state(4, workers)
        for kind in VALUES:
            found = dict(files.tensors(kind))
            assert files.has(kind) and equals(found, kind)
            assert {name: list(values.shape) for name, values in found.items()} == SHAPES
        for start in range(12):
            for count in range(12 - start):
                run = files.values("weights", "body.weight", start, count)
                assert torch.equal(run, VALUES["weights"]["body.weight"][start : start + count])
        assert not files.has("exp_avg")


def test_values_that_are_not_all_there_are_an_error_that_names_the_parameter(tmp_path: Path) -> None:
    with CheckpointFiles.open(write(str(tmp_path), 4, range(2))) as files:
        with pytest.raises(CheckpointError, match="found 3 of 4 weights of body.bias from 0"):
            files.values("weights", "body.bias", 0, 4)
        with pytest.raises(CheckpointError, match="found 0 of 3 momentum of body.bias"):
            files.values("momentum", "body.bias", 0, 3)


def test_a_worker_without_any_value_writes_a_shard_all_the_same(tmp_path: Path) -> None:
    snapshot = Snapshot()
    snapshot.take(fragments(0, 1))
    snapshot.write(checkpoints.path_of(str(tmp_path), 1), state(1), rank=0)
    empty = Snapshot()
    empty.take([])
    empty.write(checkpoints.path_of(str(tmp_path), 1), state(1), rank=1)
    address = checkpoints.latest(str(tmp_path))
    assert address is not None
    with CheckpointFiles.open(address) as files:
        assert equals(dict(files.tensors("weights")), "weights")


def test_a_snapshot_keeps_the_values_of_its_moment(tmp_path: Path) -> None:
    weights = torch.zeros(3)
    held, snapshot = [Fragment("body.bias", 0, {"weights": weights})], Snapshot()
    for step in (1, 2):
        weights.fill_(step)
        snapshot.take(held)
        weights.fill_(-1)
        only = CheckpointState(step, 1, "a", {"body.bias": [3]})
        snapshot.write(checkpoints.path_of(str(tmp_path), step), only, rank=0)
        with CheckpointFiles.open(checkpoints.path_of(str(tmp_path), step)) as files:
            assert files.values("weights", "body.bias", 0, 3).tolist() == [step] * 3


def test_a_half_written_checkpoint_is_never_chosen(folder: str) -> None:
    assert checkpoints.latest(folder) is None
    whole = write(folder, 2, range(2))
    without_state = write(folder, 4, range(1, 2))
    assert checkpoints.latest(folder) == whole
    without_shard = write(folder, 6, range(1))
    assert checkpoints.latest(folder) == whole
    assert not checkpoints.is_complete(without_state) and not checkpoints.is_complete(without_shard)


def test_shards_of_two_attempts_are_no_checkpoint_and_the_next_attempt_is(folder: str) -> None:
    """The first attempt was killed before worker 0 wrote, the second before worker 1 did; then one is whole."""
    whole = write(folder, 2, range(2))
    write(folder, 4, range(1, 2), attempt="first")
    broken = write(folder, 4, range(1), attempt="second")
    names = [name for name in storage.names(broken) if name.startswith("shard")]
    assert len(names) == 2 and checkpoints.latest(folder) == whole
    third = write(folder, 4, range(2), attempt="third")
    assert checkpoints.latest(folder) == third
    with CheckpointFiles.open(third) as files:
        assert files.state.attempt == "third" and equals(dict(files.tensors("averages")), "averages")


def test_shards_of_another_number_of_workers_are_not_mixed_in(folder: str) -> None:
    write(folder, 4, range(2), workers=3)
    address = write(folder, 4, range(1), workers=1)
    assert checkpoints.latest(folder) == address
    with CheckpointFiles.open(address) as files:
        assert files.state.workers == 1 and equals(dict(files.tensors("weights")), "weights")


def steps_of(folder: str) -> list[int]:
    return [int(name.removeprefix(checkpoints.PREFIX)) for name in storage.names(folder) if name.startswith("step-")]


def test_only_the_newest_complete_checkpoints_are_kept(folder: str) -> None:
    storage.write_bytes(storage.join(folder, "metrics.jsonl"), b"")
    for step in (2, 6, 8):
        write(folder, step, range(2))
    for step in (4, 10):
        write(folder, step, range(1))
    checkpoints.remove_others(folder, keep=2)
    assert steps_of(folder) == [6, 8] and "metrics.jsonl" in storage.names(folder)
    checkpoints.remove_others(folder, keep=3)
    assert steps_of(folder) == [6, 8]


def test_while_workers_write_what_is_newer_than_the_newest_complete_one_stays(folder: str) -> None:
    write(folder, 2, range(1))
    checkpoints.remove_others(folder, keep=1, writing=True)
    assert steps_of(folder) == [2], "the run's first may be being written"
    for step in (4, 6):
        write(folder, step, range(2))
    write(folder, 8, range(1, 2))
    checkpoints.remove_others(folder, keep=1, writing=True)
    assert steps_of(folder) == [6, 8]


def test_a_state_file_tells_a_person_what_the_checkpoint_is(tmp_path: Path) -> None:
    address = write(str(tmp_path), 500, range(2))
    told = json.loads(Path(address, checkpoints.STATE_FILE).read_text())
    assert told["step"] == 500 and told["workers"] == 2 and told["position"] == {"draws": 4000}
    assert sorted(path.name for path in Path(address).iterdir()) == [
        "shard-00000-of-00002-a.safetensors",
        "shard-00001-of-00002-a.safetensors",
        "state.json",
    ]
