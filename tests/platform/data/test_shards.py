"""Shards give back the samples that were written, at any place, and say when they are not finished."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pytest

from fireedit.platform.data import shards
from fireedit.platform.data.group_cache import GroupCache
from fireedit.platform.data.sample import NO_IMAGE, Sample
from fireedit.platform.data.shards import ShardReader
from fireedit.platform.images import EncodedImage

SIZES = (70, 32, 1)
"""Rows of three shards; the first ends with a short group."""
ARRAYS = {"mean": (3,), "grid": (2, 4)}


def sample_of(number: int) -> Sample:
    return Sample(
        id=f"test/{number}",
        corpus="test",
        task="edit",
        instruction=f"make it {number}",
        plain="make it so" if number % 2 else "",
        questions=("who?",) * (number % 3),
        answers=("he",) * (number % 3),
        source=EncodedImage(bytes([number]) * 5),
        target=NO_IMAGE if number % 2 else EncodedImage(b"target"),
        boxes=((0.0, 0.25, 0.5, 1.0),) * (number % 2),
    )


def blocks() -> list[range]:
    ends = np.cumsum(SIZES).tolist()
    return [range(end - size, end) for end, size in zip(ends, SIZES, strict=True)]


def arrays_of(number: int) -> dict[str, np.ndarray]:
    return {name: np.full(shape, number, np.float16) for name, shape in ARRAYS.items()}


@pytest.fixture
def root(tmp_path: Path) -> str:
    """Three shards, and beside each an encoding of the even rows only."""
    folder, encoding = str(tmp_path), shards.Encoding("arrays-1a2b", dict(ARRAYS), "1a2b")
    named = [shards.Shard(f"{number:06d}-000", size) for number, size in enumerate(SIZES)]
    for shard, block in zip(named, blocks(), strict=True):
        shards.write_samples(folder, shard.name, map(sample_of, block))
        encoded = [{n: None if x % 2 else a.tobytes() for n, a in arrays_of(x).items()} for x in block]
        schema = pa.schema([(name, pa.binary()) for name in ARRAYS])
        shards.write_table(shards.path_of(folder, shard.name, encoding.folder), schema, encoded)
    shards.write_index(folder, shards.Index("test", "train", "", named, {"arrays": encoding}))
    return folder


def test_columns_are_those_of_all_shards_written_so_far() -> None:
    """A field that is added to `Sample` adds a column; the others keep their names, order and types."""
    texts, floats = pa.list_(pa.string()), pa.list_(pa.list_(pa.float32()))
    columns = {"id": pa.string(), "corpus": pa.string(), "task": pa.string(), "instruction": pa.string()}
    columns |= {"plain": pa.string(), "questions": texts, "answers": texts}
    columns |= {"source": pa.binary(), "target": pa.binary(), "boxes": floats}
    assert pa.schema(list(columns.items())) == shards.SCHEMA


def test_a_fingerprint_never_changes() -> None:
    """Runs resume only on the shards with the fingerprint that they began with."""
    index = shards.Index("test", "train", "", [shards.Shard("000000-000", 70)])
    assert index.fingerprint == "f9300c2b1daa4683"


def test_an_index_is_read_as_it_was_written(root: str) -> None:
    index = shards.read_index(root)
    assert (index.corpus, index.split, index.world, index.rows) == ("test", "train", "", sum(SIZES))
    assert index.shards[0] == shards.Shard("000000-000", 70)
    assert index.encodings == {"arrays": shards.Encoding("arrays-1a2b", ARRAYS, "1a2b")}


def test_every_row_belongs_to_one_group(root: str) -> None:
    groups = shards.read_index(root).groups()
    assert [rows for _, _, rows in groups] == [32, 32, 6, 32, 1]
    assert groups[2:4] == [("000000-000", 2, 6), ("000001-000", 0, 32)]


def test_a_reader_gives_every_sample_at_its_place(root: str) -> None:
    index = shards.read_index(root)
    reader = ShardReader(root, index)
    stored = [reader.row(shard, group, row) for shard, group, rows in index.groups() for row in range(rows)]
    assert [row.sample for row in stored] == [sample_of(number) for number in range(sum(SIZES))]
    assert not any(row.arrays for row in stored)


def test_rows_of_older_shards_have_no_plain_form(tmp_path: Path) -> None:
    schema = shards.SCHEMA.remove(shards.SCHEMA.get_field_index("plain"))
    shards.write_table(shards.path_of(str(tmp_path), "000000-000"), schema, [sample_of(1).row()])
    index = shards.Index("test", "train", "", [shards.Shard("000000-000", 1)])
    sample = ShardReader(str(tmp_path), index).row("000000-000", 0, 0).sample
    assert sample == dataclasses.replace(sample_of(1), plain="")


def test_rows_may_be_read_in_any_order_with_one_group_in_memory(root: str) -> None:
    index = shards.read_index(root)
    small, large = ShardReader(root, index, groups=1), ShardReader(root, index, groups=9)
    for group in (0, 1, 2, 1, 0):
        assert small.row("000000-000", group, 5) == large.row("000000-000", group, 5)
        assert small.row("000000-000", group, 5).sample == sample_of(32 * group + 5)
        assert small.row("000002-000", 0, 0).sample == sample_of(102)


def test_a_reader_keeps_the_groups_that_were_used_last(root: str) -> None:
    reader = ShardReader(root, shards.read_index(root), groups=2)
    for group in (0, 1, 0, 2):
        reader.row("000000-000", group, 0)
    os.truncate(shards.path_of(root, "000000-000"), 0)
    for group in (0, 2):
        assert reader.row("000000-000", group, 1).sample == sample_of(32 * group + 1)
    with pytest.raises(OSError):
        reader.row("000000-000", 1, 0)


def test_more_shards_may_be_read_than_files_are_kept_open(root: str) -> None:
    reader = ShardReader(root, shards.read_index(root), ["arrays"], open_files=2)
    for shard in ("000000-000", "000001-000", "000002-000") * 2:
        assert reader.row(shard, 0, 0).sample.task == "edit"
        opened = [file.path for file in psutil.Process().open_files() if file.path.startswith(root)]
        assert len(opened) == 2


def test_readers_that_share_a_cache_fetch_a_group_once(root: str, tmp_path: Path) -> None:
    index, cache = shards.read_index(root), GroupCache(tmp_path / "row-groups", limit=10**6)
    readers = [ShardReader(root, index, ["arrays"], cache=cache, version="v1") for _ in range(2)]
    for reader in readers:
        stored = reader.row("000000-000", 1, 2)
        assert stored.sample == sample_of(34)
        assert {name: array.tolist() for name, array in stored.arrays.items() if array is not None} == {
            name: array.tolist() for name, array in arrays_of(34).items()
        }
    assert readers[0].fetched_bytes > 32 * readers[0].row_bytes / 2 > 0
    assert readers[1].fetched_bytes == 0 and readers[1].row_bytes == readers[0].row_bytes
    for other in (ShardReader(root, index, cache=cache, version="v1"), ShardReader(root, index, ["arrays"])):
        assert other.row("000000-000", 1, 2).sample == sample_of(34) and other.fetched_bytes


def test_bytes_of_all_rows_are_those_of_their_groups(root: str) -> None:
    index = shards.read_index(root)
    reader = ShardReader(root, index)
    for shard, group, rows in index.groups():
        for row in range(rows):
            reader.row(shard, group, row)
    assert reader.fetched_bytes == pytest.approx(reader.row_bytes, rel=0.25), "rows of some 200 bytes"


def test_shards_that_are_finished_anew_have_another_version(root: str) -> None:
    index, before = shards.read_index(root), shards.version_of(root)
    assert shards.version_of(root) == before
    shards.write_index(root, index)
    assert shards.version_of(root) != before


def test_arrays_come_with_the_rows_that_have_them(root: str) -> None:
    reader = ShardReader(root, shards.read_index(root), ["arrays"], groups=2)
    stored = reader.row("000000-000", 1, 2)
    assert stored.sample.id == "test/34" and stored.arrays.keys() == ARRAYS.keys()
    for name, wanted in arrays_of(34).items():
        array = stored.arrays[name]
        assert array is not None and array.dtype == np.float16 and np.array_equal(array, wanted)
    assert list(reader.row("000000-000", 1, 3).arrays.values()) == [None, None]


def test_one_shard_is_read_through_or_by_its_ids_alone(root: str) -> None:
    assert list(shards.iter_samples(root, "000000-000")) == [sample_of(number) for number in range(70)]
    assert shards.read_ids(root, "000001-000") == [f"test/{number}" for number in range(70, 102)]


def test_runs_of_items_are_full_but_for_the_last() -> None:
    assert list(shards.batched(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(shards.batched([], 3)) == []


def test_missing_or_unfinished_shards_name_the_command_to_run(tmp_path: Path, root: str) -> None:
    with pytest.raises(shards.ShardsError, match="found nothing in .*elsewhere; run: python jobs/prepare.py shards"):
        shards.read_index(str(tmp_path / "elsewhere"))
    Path(root, shards.INDEX).unlink()
    with pytest.raises(shards.ShardsError, match="index.json is missing; found unfinished shards"):
        shards.read_index(root)


@pytest.mark.parametrize("text", ["{", '{"corpus": "test"}'])
def test_a_file_that_is_no_index_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / shards.INDEX).write_text(text)
    with pytest.raises(shards.ShardsError, match="index.json is no index of shards"):
        shards.read_index(str(tmp_path))
