"""Batches of a run are those of one sequence, for any number of workers and after any number of kills, with or without
Ray; every row group is fetched once, and no more is decoded ahead than the limits say."""

import functools
import json
import multiprocessing
import os
import random
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray
import ray.exceptions

from fireedit.platform import images
from fireedit.platform.data import shards
from fireedit.platform.data.ingest import (
    Corpora,
    IngestConfig,
    IngestError,
    PreparedBatch,
    Share,
    prepared_batches,
    set_aside,
)
from fireedit.platform.data.mixture import MixtureError
from fireedit.platform.data.pool_tasks import PoolTasks
from fireedit.platform.data.ray_tasks import RayTasks
from fireedit.platform.data.sample import NO_IMAGE, Sample

CONFIG = IngestConfig(cpus_per_task=0.25, tasks=1, shuffle_groups=2, prefetch_batches=4)
AnyTasks = type[PoolTasks] | type[RayTasks]
SIZES = {"edits": 100, "answers": 21}
WEIGHTS = {"edits": 2.0, "answers": 1.0}
BATCH, BATCHES = 4, 32
SIDE = 8
STEP_S = 0.03
"""Seconds that the run which is killed takes over one batch."""
BATCHES_PER_KILL = 12
"""Batches of that run for each time it is killed."""


class Refused(ValueError):
    """Sample that `prepare` does not take."""


def prepare(sample: Mapping[str, Any], refused: frozenset[str] = frozenset()) -> dict[str, Any]:
    if sample["id"] in refused:
        raise Refused("too long")
    return {
        "id": sample["id"],
        "source": sample["source"],
        "is_edit": np.array(sample["target"] is not None),
    }


def prepare_large(sample: Mapping[str, Any], log: Path) -> dict[str, Any]:
    """Make a row of 100 kB and a byte in the log."""
    with log.open("ab") as file:
        file.write(b".")
    return {"id": sample["id"], "large": np.zeros(100_000, np.uint8)}


def picture(number: int) -> np.ndarray:
    return np.full((SIDE, SIDE, 3), number, np.uint8)


def write_corpus(root: Path, name: str, rows: int, split: str = "train", world: str = "") -> None:
    """Write shards of `rows` samples, each of another gray; those of edits have a target too."""
    written = []
    for first in range(0, rows, 64):
        numbers = range(first, min(first + 64, rows))
        written.append(shards.Shard(f"{first:06d}-000", len(numbers)))
        samples = [
            Sample(
                id=f"{name}/{number}",
                corpus=name,
                task="edit" if name == "edits" else "vqa",
                source=images.encode_png(picture(number)),
                target=images.encode_png(picture(255 - number)) if name == "edits" else NO_IMAGE,
            )
            for number in numbers
        ]
        shards.write_samples(str(root / name), written[-1].name, samples)
    shards.write_index(str(root / name), shards.Index(name, split, world, written))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("shards")
    for name, rows in SIZES.items():
        write_corpus(folder, name, rows)
    return str(folder)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> IngestConfig:
    return replace(CONFIG, cache_folder=str(tmp_path_factory.mktemp("row-groups")))


@pytest.fixture(scope="module")
def corpora(root: str, config: IngestConfig) -> Corpora:
    return Corpora(root, WEIGHTS, seed=3, config=config)


@pytest.fixture(params=[PoolTasks, pytest.param(RayTasks, marks=pytest.mark.ray)])
def tasks(request: pytest.FixtureRequest) -> AnyTasks:
    if request.param is RayTasks:
        request.getfixturevalue("ray_session")
    return request.param


def batches_of(
    corpora: Corpora,
    share: Share,
    quarantine: Path,
    refused: frozenset[str] = frozenset(),
    tasks: AnyTasks = RayTasks,
) -> Generator[PreparedBatch]:
    prepare_or_refuse = functools.partial(prepare, refused=refused)
    return prepared_batches(corpora, share, prepare_or_refuse, Refused, str(quarantine), SIDE, tasks)


def ids_by_number(
    corpora: Corpora,
    workers: int,
    quarantine: Path,
    start: int = 0,
    stop: int = BATCHES,
    refused: frozenset[str] = frozenset(),
) -> list[list[str]]:
    """Ids of batches number `start`, ..., `stop` - 1, each made by the worker that it is dealt to."""
    ids: dict[int, list[str]] = {}
    for rank in range(workers):
        share = Share(rank, workers, BATCH, start * BATCH, stop * BATCH)
        for number, batch in zip(share.batches(), batches_of(corpora, share, quarantine, refused), strict=True):
            assert batch.number == number
            ids[number] = batch.columns["id"].tolist()
    return [ids[number] for number in range(start, stop)]


def drawn_ids(corpora: Corpora, batches: int = BATCHES, refused: frozenset[str] = frozenset()) -> list[list[str]]:
    """Ids of the same batches, read from the sequence of draws without Ray."""
    read, ids = corpora.reader(), []
    for draw in corpora.mixture.draws(0, batches * BATCH):
        size = corpora.sizes[draw.corpus]
        places = [(draw.place + ahead) % size for ahead in range(size)]
        candidates = (read(replace(draw, place=place)).sample.id for place in places)
        ids.append(next(name for name in candidates if name not in refused))
    return list(shards.batched(ids, BATCH))


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("start", [0, 7, 31, 32])
def test_workers_share_out_all_batches(workers: int, start: int) -> None:
    shares = [Share(rank, workers, BATCH, start * BATCH, 32 * BATCH).batches() for rank in range(workers)]
    assert sorted(number for share in shares for number in share) == list(range(start, 32))
    assert shares[0][:1] == range(start, 32)[:1]


def test_rows_of_every_epoch_come_once(corpora: Corpora) -> None:
    ids = [name for batch in drawn_ids(corpora, batches=480) for name in batch]
    answers = [name for name in ids if name.startswith("answers/")]
    epochs = [answers[first : first + 21] for first in range(0, len(answers) - 20, 21)]
    assert len(epochs) > 20 and all(len(set(epoch)) == 21 for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_rows_are_decoded_and_prepared_in_their_order(corpora: Corpora, tasks: AnyTasks, tmp_path: Path) -> None:
    batches = list(batches_of(corpora, Share(0, 1, BATCH, 0, 6 * BATCH), tmp_path, tasks=tasks))
    assert [batch.columns["id"].tolist() for batch in batches] == drawn_ids(corpora, batches=6)
    for columns in (batch.columns for batch in batches):
        assert columns["source"].dtype == np.uint8
        for place, (name, _, number) in enumerate(row.partition("/") for row in columns["id"].tolist()):
            assert np.array_equal(columns["source"][place], picture(int(number)))
            assert bool(columns["is_edit"][place]) == (name == "edits")


def test_every_row_group_is_fetched_once_for_four_workers_of_a_node(tasks: AnyTasks, tmp_path: Path) -> None:
    """Bytes of the row groups that are fetched in a pass of two corpora are those of the rows."""
    sizes = {"edits": 192, "answers": 64}
    for name, rows in sizes.items():
        write_corpus(tmp_path, name, rows)
    once = replace(CONFIG, cache_folder=str(tmp_path / "row-groups"))
    corpora, stop = Corpora(str(tmp_path), {"edits": 3.0, "answers": 1.0}, 3, once), sum(sizes.values())
    shares = [Share(rank, 4, BATCH, 0, stop) for rank in range(4)]
    in_turn = zip(*(batches_of(corpora, share, tmp_path / "bad", tasks=tasks) for share in shares), strict=True)
    batches = [batch for step in in_turn for batch in step]
    assert [batch.columns["id"].tolist() for batch in batches] == drawn_ids(corpora, batches=stop // BATCH)
    assert len({name for batch in batches for name in batch.columns["id"].tolist()}) == stop, "a whole pass"
    assert sum(batch.fetched_bytes for batch in batches) <= 1.2 * sum(batch.row_bytes for batch in batches)


@pytest.mark.parametrize(("limits", "ahead"), [({"prefetch_batches": 3}, 3), ({"prefetch_mb": 1}, 2)])
def test_no_more_is_decoded_ahead_than_the_limits_say(
    root: str, config: IngestConfig, tasks: AnyTasks, limits: dict[str, int], ahead: int, tmp_path: Path
) -> None:
    """Batches of 0.4 MB are in flight up to their number or size while the first one is worked on."""
    log, limited = tmp_path / "log", replace(config, **{"prefetch_batches": 9, **limits})
    corpora, large = Corpora(root, WEIGHTS, 3, limited), functools.partial(prepare_large, log=log)
    share = Share(0, 1, BATCH, 0, None)
    batches = prepared_batches(corpora, share, large, Refused, str(tmp_path / "bad"), SIDE, tasks)
    assert next(batches).nbytes == pytest.approx(400_000, rel=0.01)
    _wait_until(lambda: log.stat().st_size >= (1 + ahead) * BATCH)
    time.sleep(0.3)
    batches.close()
    assert log.stat().st_size == (1 + ahead) * BATCH


@pytest.mark.ray
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_workers_makes_the_same_batches(
    ray_session: None, corpora: Corpora, workers: int, tmp_path: Path
) -> None:
    assert ids_by_number(corpora, workers, tmp_path) == drawn_ids(corpora)


@pytest.mark.ray
@pytest.mark.parametrize("start", [1, 13, 31])
def test_a_run_begins_anywhere_in_the_sequence(ray_session: None, corpora: Corpora, start: int, tmp_path: Path) -> None:
    assert ids_by_number(corpora, 1, tmp_path, start=start) == drawn_ids(corpora)[start:]


@pytest.mark.ray
def test_the_number_of_workers_may_change_during_a_run(ray_session: None, corpora: Corpora, tmp_path: Path) -> None:
    first = ids_by_number(corpora, 2, tmp_path, stop=6)
    second = ids_by_number(corpora, 1, tmp_path, start=6, stop=13)
    third = ids_by_number(corpora, 2, tmp_path, start=13)
    assert first + second + third == drawn_ids(corpora)


@pytest.mark.ray
def test_a_run_that_is_finished_has_no_more_batches(ray_session: None, corpora: Corpora, tmp_path: Path) -> None:
    assert list(batches_of(corpora, Share(0, 1, BATCH, 64, 64), tmp_path)) == []


def test_a_run_without_an_end_goes_on_until_it_is_closed(corpora: Corpora, tasks: AnyTasks, tmp_path: Path) -> None:
    batches = batches_of(corpora, Share(0, 1, BATCH, 0, None), tmp_path, tasks=tasks)
    ids = [batch.columns["id"].tolist() for batch in islice(batches, 15)]
    assert ids == drawn_ids(corpora, batches=15)
    batches.close()
    assert next(batches, None) is None


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.soak)])
def test_a_run_that_is_killed_sees_the_uninterrupted_sequence(
    ray_session: None, corpora: Corpora, tmp_path: Path, kills: int
) -> None:
    """Its process is SIGKILLed at its start, in a step or between two, and the next one has other workers."""
    stop = kills * BATCHES_PER_KILL
    processes, log, rng = multiprocessing.get_context("forkserver"), tmp_path / "ids.jsonl", random.Random(0)
    processes.set_forkserver_preload([__name__])
    log.touch()
    address = ray.get_runtime_context().gcs_address
    for kill in range(kills + 1):
        process = processes.Process(target=_resume_run, args=(address, corpora, log, kill % 2 + 1, stop, tmp_path))
        process.start()
        if kill < kills:
            _wait_for(_finished(log) + rng.randrange(5), log, process)
            time.sleep(rng.random() * 8 * STEP_S)
            assert process.is_alive(), "the run is long enough to be killed so often"
            process.kill()
        process.join()
    assert process.exitcode == 0
    assert [json.loads(line) for line in log.read_text().splitlines()] == drawn_ids(corpora, batches=stop)


def _resume_run(address: str, corpora: Corpora, log: Path, workers: int, stop: int, quarantine: Path) -> None:
    """Append the ids of every batch to the log, from its end to the end of the run."""
    ray.init(address=address, log_to_driver=False)
    first = _finished(log)
    shares = [Share(rank, workers, BATCH, first * BATCH, stop * BATCH) for rank in range(workers)]
    batches = [batches_of(corpora, share, quarantine) for share in shares]
    with log.open("a") as file:
        for number in range(first, stop):
            file.write(json.dumps(next(batches[(number - first) % workers]).columns["id"].tolist()) + "\n")
            file.flush()
            os.fsync(file.fileno())
            time.sleep(STEP_S)


def _finished(log: Path) -> int:
    return len(log.read_text().splitlines())


def _wait_for(batches: int, log: Path, process: Any) -> None:
    def reached() -> bool:
        assert process.is_alive(), f"{_finished(log)} of {batches} batches"
        return _finished(log) >= batches

    _wait_until(reached)


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.ray
def test_the_row_after_a_refused_one_takes_its_place(ray_session: None, corpora: Corpora, tmp_path: Path) -> None:
    ids = [name for batch in drawn_ids(corpora) for name in batch]
    refused = frozenset(ids[2:60:7])
    wanted = drawn_ids(corpora, refused=refused)
    assert ids_by_number(corpora, 1, tmp_path / "one", refused=refused) == wanted
    assert ids_by_number(corpora, 2, tmp_path / "two", refused=refused) == wanted
    assert not refused & {name for batch in wanted for name in batch}
    assert set_aside(str(tmp_path / "one")) == set_aside(str(tmp_path / "two")) == len(refused)


@pytest.mark.ray
def test_a_refused_sample_is_reported_once_for_any_number_of_draws(
    ray_session: None, corpora: Corpora, tmp_path: Path
) -> None:
    refused = frozenset(["answers/3", "answers/11"])
    batches = -(-4 * 21 * 3 // BATCH)
    ids_by_number(corpora, 1, tmp_path, stop=batches, refused=refused)
    assert set_aside(str(tmp_path)) == 2
    reports = [json.loads(path.read_bytes()) for path in tmp_path.iterdir()]
    assert {report["id"] for report in reports} == refused
    assert all(report["error"] == "too long" and report["corpus"] == "answers" for report in reports)


def test_an_unfinished_report_of_a_killed_task_is_not_counted(tmp_path: Path) -> None:
    (tmp_path / "answers_3.json").touch()
    (tmp_path / ".answers_4.json.4f1c").touch()
    assert set_aside(str(tmp_path)) == 1
    assert set_aside(str(tmp_path / "nothing")) == 0


def test_a_corpus_whose_rows_are_all_refused_is_an_error(
    root: str, config: IngestConfig, tasks: AnyTasks, tmp_path: Path
) -> None:
    alone = Corpora(root, {"answers": 1.0}, seed=0, config=config)
    refused = frozenset(f"answers/{number}" for number in range(21))
    with pytest.raises(IngestError, match="answers: no row"):
        list(batches_of(alone, Share(0, 1, BATCH, 0, 8 * BATCH), tmp_path, refused, tasks))


def test_stored_arrays_are_read_only_by_a_recipe_that_uses_them(config: IngestConfig, tmp_path: Path) -> None:
    write_corpus(tmp_path, "answers", 21)
    folder = str(tmp_path / "answers")
    schema, rows = pa.schema([("states", pa.binary())]), [{"states": np.float16(n).tobytes()} for n in range(21)]
    shards.write_table(shards.path_of(folder, "000000-000", "text-1a"), schema, rows)
    encoding = shards.Encoding("text-1a", {"states": (1,)}, "1a")
    shards.write_index(folder, replace(shards.read_index(folder), encodings={"text": encoding}))
    for encoded in (True, False):
        corpora = Corpora(str(tmp_path), {"answers": 1.0}, 0, replace(config, encoded=encoded))
        read = corpora.reader()
        for stored in (read(draw) for draw in corpora.mixture.draws(0, 21)):
            number = int(stored.sample.id.removeprefix("answers/"))
            arrays = {name: array.tolist() for name, array in stored.arrays.items() if array is not None}
            assert arrays == ({"states": [number]} if encoded else {})


@pytest.mark.parametrize(
    ("split", "world", "message"),
    [("val", "", "split 'val'"), ("train", "unseen_pairs", "world 'unseen_pairs'"), ("test", "train", "split 'test'")],
)
def test_held_out_shards_are_never_trained_on(tmp_path: Path, split: str, world: str, message: str) -> None:
    write_corpus(tmp_path, "edits", 5, split=split, world=world)
    with pytest.raises(shards.ShardsError, match=f"edits: .*{message}"):
        Corpora(str(tmp_path), {"edits": 1.0}, 0, CONFIG)


def test_scenes_of_the_training_world_are_trained_on(tmp_path: Path) -> None:
    write_corpus(tmp_path, "edits", 5, world="train")
    assert Corpora(str(tmp_path), {"edits": 1.0}, 0, CONFIG).sizes == {"edits": 5}


def test_missing_or_empty_shards_say_what_to_run(root: str, tmp_path: Path) -> None:
    with pytest.raises(shards.ShardsError, match="nowhere/index.json is missing; found nothing"):
        Corpora(root, {"edits": 1.0, "nowhere": 1.0}, 0, CONFIG)
    with pytest.raises(shards.ShardsError, match="run: .*--encode latents"):
        Corpora(root, WEIGHTS, 0, replace(CONFIG, encoded=True))
    write_corpus(tmp_path, "empty", 0)
    with pytest.raises(MixtureError, match="empty: no row"):
        Corpora(str(tmp_path), {"empty": 1.0}, 0, CONFIG)
