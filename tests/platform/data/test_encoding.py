"""Outputs of an encoder are stored beside the shards, row by row, and made once for each of its weights."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fireedit.platform.cluster import ResourcesError
from fireedit.platform.data import shards
from fireedit.platform.data.encoding import Arrays, Encoder, EncodersConfig, encode
from fireedit.platform.data.sample import Sample, Task

CONFIG = EncodersConfig(cpus_per_task=0.25, batch=4)
COLUMNS = {"length": (2,), "square": (1, 3)}
SIZES = (40, 3, 5)
"""Rows of the shards; the encoder has no use for those of the last one."""


def write_corpus(root: Path) -> None:
    """Write captions of as many letters as their number; every third row and all of the last shard are dialogues."""
    named, number = [], 0
    for place, size in enumerate(SIZES):
        samples = []
        for _ in range(size):
            task: Task = "vqa" if number % 3 == 2 or place == 2 else "caption"
            samples.append(Sample(id=f"test/{number}", corpus="test", task=task, instruction="x" * number))
            number += 1
        named.append(shards.Shard(f"{place:06d}-000", size))
        shards.write_samples(str(root), named[-1].name, samples)
    shards.write_index(str(root), shards.Index("test", "train", "", named))


def load(sample: Sample) -> Arrays | None:
    return {"count": np.array([len(sample.instruction)], np.int64)} if sample.task == "caption" else None


class Measure:
    """Encoder whose only weight is `factor`; it writes the sizes of its batches to `log`."""

    def __init__(self, factor: int, log: Path):
        self.factor, self.log = factor, log

    def __call__(self, inputs: Arrays) -> Arrays:
        counts = inputs["count"] * self.factor
        with self.log.open("a") as file:
            file.write(f"{len(counts)}\n")
        return {
            "length": np.concatenate([counts, -counts], axis=1).astype(np.float16),
            "square": np.repeat(counts, 3, axis=1)[:, None].astype(np.float16) ** 2,
        }


def encoded(root: Path, factor: int = 1, config: EncodersConfig = CONFIG) -> dict[str, Any]:
    encoder = Encoder(f"{factor:04x}", COLUMNS, load, functools.partial(Measure, factor, root / "batches.log"))
    return encode(str(root), "measure", encoder, config)


def assert_measured(root: Path, factor: int) -> None:
    index, number = shards.read_index(str(root)), 0
    reader = shards.ShardReader(str(root), index, ["measure"])
    for shard, group, rows in index.groups():
        for place in range(rows):
            stored = reader.row(shard, group, place)
            length, square = stored.arrays["length"], stored.arrays["square"]
            assert stored.sample.id == f"test/{number}"
            if stored.sample.task == "caption":
                assert length is not None and length.tolist() == [number * factor, -number * factor]
                assert square is not None and square.shape == (1, 3) and square.dtype == np.float16
                assert (square == (number * factor) ** 2).all()
            else:
                assert length is square is None
            number += 1
    assert number == sum(SIZES)


@pytest.mark.ray
def test_arrays_are_stored_for_the_rows_that_the_encoder_has_a_use_for(
    ray_session: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_corpus(tmp_path)
    report, lines = encoded(tmp_path), capsys.readouterr().err.splitlines()
    assert (report["shards"], report["encoded_now"], report["rows"]) == (3, 3, 29) and report["seconds"] > 0
    assert "test             measure: shard    3/3        29 rows  left 0 s" in lines
    assert_measured(tmp_path, factor=1)
    entry = shards.read_index(str(tmp_path)).encodings["measure"]
    assert entry == shards.Encoding("measure-0001", COLUMNS, "0001")
    batches = [int(line) for line in (tmp_path / "batches.log").read_text().split()]
    assert sum(batches) == 29 and max(batches) == CONFIG.batch


@pytest.mark.ray
def test_a_second_run_encodes_only_the_shards_that_are_missing(ray_session: None, tmp_path: Path) -> None:
    write_corpus(tmp_path)
    encoded(tmp_path)
    folder, index = tmp_path / "measure-0001", (tmp_path / shards.INDEX).read_bytes()
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert encoded(tmp_path)["encoded_now"] == 0
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert (tmp_path / shards.INDEX).read_bytes() == index

    (folder / "000001-000.parquet").rename(folder / ".000001-000.parquet.4f1c")
    report = encoded(tmp_path)
    assert (report["encoded_now"], report["rows"]) == (1, 2)
    assert (folder / "000000-000.parquet").stat().st_mtime_ns == before["000000-000.parquet"]
    assert_measured(tmp_path, factor=1)


@pytest.mark.ray
def test_other_weights_make_another_folder_which_is_read_from_then_on(ray_session: None, tmp_path: Path) -> None:
    write_corpus(tmp_path)
    encoded(tmp_path)
    assert encoded(tmp_path, factor=2)["encoded_now"] == 3
    assert {"measure-0001", "measure-0002"} <= {path.name for path in tmp_path.iterdir()}
    assert_measured(tmp_path, factor=2)
    assert encoded(tmp_path)["encoded_now"] == 0, "the first weights' arrays are kept"
    assert_measured(tmp_path, factor=1)


@pytest.mark.ray
def test_encoders_that_leave_no_cpu_to_read_with_are_an_error_at_once(ray_session: None, tmp_path: Path) -> None:
    """Encoders hold their CPUs all the time, so that reading would never begin."""
    write_corpus(tmp_path)
    with pytest.raises(ResourcesError, match="5 CPUs.*fewer encoders"):
        encoded(tmp_path, config=EncodersConfig(count=4))


def test_shards_that_are_not_finished_are_not_encoded(tmp_path: Path) -> None:
    with pytest.raises(shards.ShardsError, match="index.json is missing"):
        encoded(tmp_path)
