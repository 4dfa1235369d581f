"""What an encoder makes of the rows lies beside their shards, row by row, and is made once for each of its weights."""

import functools
from pathlib import Path

import numpy as np
import pytest

from fireedit.platform.data import shards
from fireedit.platform.data.encoding import Arrays, Encode, EncodersConfig, encode
from fireedit.platform.data.sample import Sample

CONFIG = EncodersConfig(cpus=0.25, cpus_per_task=0.25, batch=4)
COLUMNS = {"length": (2,), "square": (1, 3)}
SIZES = (40, 3, 5)
"""Rows of the shards; the last one holds nothing that the encoder has a use for."""


def write_corpus(root: Path) -> None:
    """Captions of as many letters as their number says, every third row a dialogue; in the last shard all rows are."""
    named, number = [], 0
    for place, size in enumerate(SIZES):
        rows = []
        for _ in range(size):
            task = "vqa" if number % 3 == 2 or place == 2 else "caption"
            rows.append(Sample(id=f"test/{number}", corpus="test", task=task, instruction="x" * number).row())
            number += 1
        named.append(shards.Shard(f"{place:06d}-000", size))
        shards.write_table(shards.path_of(str(root), named[-1].name), shards.SCHEMA, rows)
    shards.write_index(str(root), shards.Index("test", "train", "", named))


def load(row: shards.Row) -> Arrays | None:
    return {"count": np.array([len(row["instruction"])], np.int64)} if row["task"] == "caption" else None


class Measure:
    """An encoder: `factor` is its weights, `log` tells how large its batches were."""

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


def make(factor: int, log: Path) -> Encode:
    return Measure(factor, log)


def encoded(root: Path, factor: int = 1, lines: list[str] | None = None) -> dict:
    told: list[str] = [] if lines is None else lines
    making = functools.partial(make, factor, root / "batches.log")
    return encode(str(root), "measure", f"{factor:04x}", COLUMNS, load, making, CONFIG, told.append)


def assert_measured(root: Path, factor: int) -> None:
    index, number = shards.read_index(str(root)), 0
    reader = shards.ShardReader(str(root), index, ["measure"])
    for shard, group, rows in index.groups():
        for place in range(rows):
            row = reader.row(shard, group, place)
            assert row["id"] == f"test/{number}"
            if row["task"] == "caption":
                assert row["length"].tolist() == [number * factor, -number * factor]
                assert row["square"].shape == (1, 3) and (row["square"] == (number * factor) ** 2).all()
                assert row["square"].dtype == np.float16
            else:
                assert row["length"] is row["square"] is None
            number += 1
    assert number == sum(SIZES)


@pytest.mark.ray
def test_arrays_stand_beside_their_rows_and_rows_without_use_have_none(ray_session: None, tmp_path: Path) -> None:
    write_corpus(tmp_path)
    lines: list[str] = []
    report = encoded(tmp_path, lines=lines)
    assert (report["shards"], report["encoded_now"], report["rows"]) == (3, 3, 29) and report["seconds"] > 0
    assert len(lines) == 3 and lines[-1].startswith("test             measure: shard    3/3        29 rows  left 0 s")
    assert_measured(tmp_path, factor=1)
    entry = shards.read_index(str(tmp_path)).encodings["measure"]
    assert entry == shards.Encoding("measure-0001", COLUMNS, "0001")
    batches = [int(line) for line in (tmp_path / "batches.log").read_text().split()]
    assert sum(batches) == 29 and max(batches) == CONFIG.batch


@pytest.mark.ray
def test_a_second_run_encodes_nothing_and_one_that_was_broken_off_the_rest(ray_session: None, tmp_path: Path) -> None:
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
def test_other_weights_make_another_folder_and_are_read_from_then_on(ray_session: None, tmp_path: Path) -> None:
    write_corpus(tmp_path)
    encoded(tmp_path)
    assert encoded(tmp_path, factor=2)["encoded_now"] == 3
    assert {"measure-0001", "measure-0002"} <= {path.name for path in tmp_path.iterdir()}
    assert_measured(tmp_path, factor=2)
    assert encoded(tmp_path)["encoded_now"] == 0, "the first weights' arrays lie there still"
    assert_measured(tmp_path, factor=1)


def test_shards_that_are_not_finished_are_not_encoded(tmp_path: Path) -> None:
    with pytest.raises(shards.ShardsError, match="index.json is missing"):
        encoded(tmp_path)
