"""Shards give back the rows that were written, at any place, and say when they are not finished."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fireedit.platform.data import shards
from fireedit.platform.data.sample import Sample

SIZES = (70, 32, 1)
"""Rows of three shards; the first ends with a short group."""
ARRAYS = {"mean": (3,), "grid": (2, 4)}


def sample_row(number: int) -> shards.Row:
    sample = Sample(
        id=f"test/{number}",
        corpus="test",
        task="edit",
        instruction=f"make it {number}",
        plain="make it so" if number % 2 else "",
        questions=("who?",) * (number % 3),
        answers=("he",) * (number % 3),
        source=bytes([number]) * 5,
        target=b"" if number % 2 else b"target",
        boxes=((0.0, 0.25, 0.5, 1.0),) * (number % 2),
    )
    row = {**sample.row(), "boxes": [list(box) for box in sample.boxes]}
    del row["error"]
    return row


def numbers() -> list[range]:
    ends = np.cumsum(SIZES).tolist()
    return [range(end - size, end) for end, size in zip(ends, SIZES, strict=True)]


def arrays_of(number: int) -> dict[str, np.ndarray]:
    return {name: np.full(shape, number, np.float16) for name, shape in ARRAYS.items()}


@pytest.fixture
def root(tmp_path: Path) -> str:
    """Three shards; beside each an encoding, of the even rows only."""
    encoding = shards.Encoding("arrays-1a2b", dict(ARRAYS), "1a2b")
    named = [shards.Shard(f"{place:06d}-000", size) for place, size in enumerate(SIZES)]
    for shard, block in zip(named, numbers(), strict=True):
        shards.write_table(shards.path_of(str(tmp_path), shard.name), shards.SCHEMA, map(sample_row, block))
        beside = [{n: None if x % 2 else a.tobytes() for n, a in arrays_of(x).items()} for x in block]
        schema = pa.schema([(name, pa.binary()) for name in ARRAYS])
        shards.write_table(shards.path_of(str(tmp_path), shard.name, encoding.folder), schema, beside)
    shards.write_index(str(tmp_path), shards.Index("test", "train", "", named, {"arrays": encoding}))
    return str(tmp_path)


def test_an_index_is_read_as_it_was_written(root: str) -> None:
    index = shards.read_index(root)
    assert (index.corpus, index.split, index.world, index.rows) == ("test", "train", "", sum(SIZES))
    assert index.shards[0] == shards.Shard("000000-000", 70)
    assert index.encodings == {"arrays": shards.Encoding("arrays-1a2b", ARRAYS, "1a2b")}


def test_every_row_belongs_to_one_group(root: str) -> None:
    groups = shards.read_index(root).groups()
    assert [rows for _, _, rows in groups] == [32, 32, 6, 32, 1]
    assert groups[2:4] == [("000000-000", 2, 6), ("000001-000", 0, 32)]


def test_a_reader_gives_every_row_at_its_place(root: str) -> None:
    index = shards.read_index(root)
    reader, number = shards.ShardReader(root, index), 0
    for shard, group, rows in index.groups():
        for row in range(rows):
            assert reader.row(shard, group, row) == sample_row(number)
            number += 1
    assert number == sum(SIZES)


def test_rows_of_older_shards_have_no_plain_form(tmp_path: Path) -> None:
    schema = shards.SCHEMA.remove(shards.SCHEMA.get_field_index("plain"))
    shards.write_table(shards.path_of(str(tmp_path), "000000-000"), schema, [sample_row(1)])
    index = shards.Index("test", "train", "", [shards.Shard("000000-000", 1)])
    assert shards.ShardReader(str(tmp_path), index).row("000000-000", 0, 0) == sample_row(1) | {"plain": ""}


def test_rows_may_be_read_in_any_order_with_one_group_in_memory(root: str) -> None:
    index = shards.read_index(root)
    few, many = shards.ShardReader(root, index, groups=1), shards.ShardReader(root, index, groups=9)
    for group in (0, 1, 2, 1, 0):
        assert few.row("000000-000", group, 5) == many.row("000000-000", group, 5) == sample_row(32 * group + 5)
        assert few.row("000002-000", 0, 0) == sample_row(102)


def test_a_reader_forgets_the_group_that_was_used_longest_ago(root: str) -> None:
    index = shards.read_index(root)
    reader = shards.ShardReader(root, index, groups=2)
    for group in (0, 1, 0, 2):
        reader.row("000000-000", group, 0)
    assert list(reader._groups) == [("000000-000", 0), ("000000-000", 2)]


def test_more_shards_may_be_read_than_files_are_kept_open(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "OPEN_FILES", 2)
    reader = shards.ShardReader(root, shards.read_index(root), ["arrays"])
    for shard in ("000000-000", "000001-000", "000002-000") * 2:
        assert reader.row(shard, 0, 0)["task"] == "edit"
        assert len(reader._files) <= 2


def test_arrays_come_with_the_rows_that_have_them(root: str) -> None:
    reader = shards.ShardReader(root, shards.read_index(root), ["arrays"], groups=2)
    row = reader.row("000000-000", 1, 2)
    assert row["id"] == "test/34" and {name: row[name].shape for name in ARRAYS} == ARRAYS
    assert all(row[name].dtype == np.float16 and (row[name] == 34).all() for name in ARRAYS)
    assert [reader.row("000000-000", 1, 3)[name] for name in ARRAYS] == [None, None]


def test_one_shard_is_read_through_or_by_its_ids_alone(root: str) -> None:
    assert list(shards.iter_rows(root, "000000-000")) == [sample_row(number) for number in range(70)]
    assert shards.read_ids(root, "000001-000") == [f"test/{number}" for number in range(70, 102)]


def test_runs_of_items_are_full_but_for_the_last() -> None:
    assert list(shards.batched(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(shards.batched([], 3)) == []


def test_shards_that_are_not_there_or_not_finished_say_what_to_run(tmp_path: Path, root: str) -> None:
    asked = "is missing; found {} in .*; run: python jobs/prepare.py shards"
    with pytest.raises(shards.ShardsError, match=asked.format("nothing")):
        shards.read_index(str(tmp_path / "elsewhere"))
    Path(root, shards.INDEX).unlink()
    with pytest.raises(shards.ShardsError, match=asked.format("unfinished shards")):
        shards.read_index(root)


@pytest.mark.parametrize("text", ["{", '{"corpus": "test"}'])
def test_a_file_that_is_no_index_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / shards.INDEX).write_text(text)
    with pytest.raises(shards.ShardsError, match="index.json is no index of shards .*; run prepare.py anew"):
        shards.read_index(str(tmp_path))
