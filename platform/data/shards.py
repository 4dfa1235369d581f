"""Shards: the checked rows of one corpus in parquet files of one schema, read at any place.

A folder of shards holds

    rows/000012-000.parquet   rows of part 12 of the corpus, in row groups of one size
    parts/000012.json         part 12 is finished: its shards, counts of rows read, kept and set aside
    latents-1a2b3c4d/         as rows/, row by row the same: outputs of the encoder with this hash
    index.json                all parts are finished: the shards and their rows
    quarantine.parquet        every row that was set aside: its id, its file's part and the error
    report.json               counts, bytes and times of the conversion
"""

import dataclasses
import functools
import hashlib
import json
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NewType, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from fireedit.platform import storage
from fireedit.platform.data.group_cache import GroupCache
from fireedit.platform.data.sample import STORED_FIELDS, Sample, Task
from fireedit.platform.images import EncodedImage

INDEX = "index.json"
ROWS, PARTS = "rows", "parts"
ROWS_PER_GROUP = 32
"""Rows that one random access reads; a group of 512 px pairs is about 4 MB."""
CAPTIONS_PER_GROUP = 1024
GROUPS_PER_SHARD = 8
OPEN_FILES = 8
"""Parquet files that a reader keeps open, with their footers and the bytes of the last row group of each."""

T = TypeVar("T")
StoredArray = NewType("StoredArray", np.ndarray)
"""Output of a frozen encoder for one row, float16 of the shape that its `Encoding` states."""


def _arrow_type(hint: Any) -> pa.DataType:
    if typing.get_origin(hint) is tuple:
        return pa.list_(_arrow_type(typing.get_args(hint)[0]))
    return {str: pa.string(), Task: pa.string(), EncodedImage: pa.binary(), float: pa.float32()}[hint]


_HINTS = typing.get_type_hints(Sample)
SCHEMA = pa.schema([(name, _arrow_type(_HINTS[name])) for name in STORED_FIELDS])
"""Columns of a shard: the stored fields of `Sample`."""


class ShardsError(ValueError):
    """Shards that are missing, unfinished or of another kind than needed; the message names the command to run."""


@dataclasses.dataclass(frozen=True)
class Shard:
    name: str
    rows: int


@dataclasses.dataclass(frozen=True)
class Encoding:
    """Outputs of one frozen encoder, stored beside the rows of every shard."""

    folder: str
    columns: dict[str, tuple[int, ...]]
    """Shape of one row's array, float16, by column."""
    weights: str
    """Hash of the encoder's weights: others make other arrays."""


@dataclasses.dataclass(frozen=True)
class StoredSample:
    """Row of a shard with its encodings."""

    sample: Sample
    arrays: Mapping[str, StoredArray | None]
    """Stored arrays by column; None where the encoder has no use for this row."""


@dataclasses.dataclass(frozen=True)
class Index:
    """Shards of one corpus, in an order that never changes."""

    corpus: str
    split: str
    world: str
    """World that its scenes were drawn from: `train`, or a held-out one; empty for real pictures."""
    shards: list[Shard]
    encodings: dict[str, Encoding] = dataclasses.field(default_factory=dict)
    rows_per_group: int = ROWS_PER_GROUP

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    @property
    def fingerprint(self) -> str:
        """Hash that changes when other rows, or the same in another order, would be drawn from these shards."""
        return hashlib.blake2b(repr((self.shards, self.rows_per_group)).encode(), digest_size=8).hexdigest()

    def groups(self) -> list[tuple[str, int, int]]:
        """List every row group: its shard's name, its number there, its rows."""
        return [
            (shard.name, number, min(self.rows_per_group, shard.rows - first))
            for shard in self.shards
            for number, first in enumerate(range(0, shard.rows, self.rows_per_group))
        ]


def read_index(root: str) -> Index:
    """Read the index of the shards under `root`.

    Raises:
        ShardsError: there is none, since the shards were never made or not finished.
    """
    path = storage.join(root, INDEX)
    if not storage.exists(path):
        found = "unfinished shards" if storage.names(root) else "nothing"
        raise ShardsError(f"{path} is missing; found {found} in {root}; run: python jobs/prepare.py shards")
    try:
        return TypeAdapter(Index).validate_json(storage.read_bytes(path))
    except ValidationError as error:
        raise ShardsError(f"{path} is no index of shards ({error.errors()[0]['msg']}); run prepare.py anew") from None


def version_of(root: str) -> str:
    """Compute a hash that changes when the shards under `root` are finished anew, though with as many rows."""
    found = storage.info(storage.join(root, INDEX))
    return hashlib.blake2b(repr((root, found.mtime_ns, found.size)).encode(), digest_size=8).hexdigest()


def write_index(root: str, index: Index) -> None:
    storage.write_bytes(storage.join(root, INDEX), json.dumps(dataclasses.asdict(index)).encode())


def path_of(root: str, shard: str, folder: str = ROWS) -> str:
    """Path of a shard's file, or of that of an encoding's folder beside it."""
    return storage.join(root, folder, f"{shard}.parquet")


def write_samples(root: str, shard: str, samples: Iterable[Sample], rows_per_group: int = ROWS_PER_GROUP) -> int:
    """Write one shard, whole or not at all; returns its bytes."""
    return write_table(path_of(root, shard), SCHEMA, (sample.row() for sample in samples), rows_per_group)


def write_table(
    path: str, schema: pa.Schema, rows: Iterable[Mapping[str, Any]], rows_per_group: int = ROWS_PER_GROUP
) -> int:
    """Write one parquet file of the row groups that `ShardReader` expects, whole or not at all; returns its bytes.

    Pictures are compressed already and each is unique, so compression, dictionaries and statistics are off.
    """
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, schema, compression="none", use_dictionary=False, write_statistics=False) as writer:
        for group in batched(rows, rows_per_group):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
    data = sink.getvalue().to_pybytes()
    storage.write_bytes(path, data)
    return len(data)


def batched(items: Iterable[T], count: int) -> Iterator[list[T]]:
    """Split items into runs of `count`; the last may be shorter."""
    remaining = iter(items)
    while run := list(islice(remaining, count)):
        yield run


def read_ids(root: str, shard: str) -> list[str]:
    """Read the ids of a shard's rows and no other column."""
    with _open(path_of(root, shard)) as file:
        return file.read(["id"]).column("id").to_pylist()


def iter_samples(root: str, shard: str) -> Iterator[Sample]:
    """Read the rows of one shard in their order, without encodings."""
    with _open(path_of(root, shard)) as file:
        for batch in file.iter_batches(ROWS_PER_GROUP):
            yield from map(Sample.of_row, batch.to_pylist())


def _open(path: str, pre_buffer: bool = False) -> pq.ParquetFile:
    files, inner = storage.filesystem(path)
    return pq.ParquetFile(inner, filesystem=files, pre_buffer=pre_buffer)


class ShardReader:
    """Reads single rows of one corpus's shards; keeps the row groups and files that were read last.

    Args:
        encodings: names of those whose arrays come with the rows.
        groups: row groups kept in memory.
        cache: row groups on this node's disk, which are then fetched once for all readers of the node.
        version: result of `version_of`, by which the cache tells these shards from others.
        open_files: parquet files kept open.
    """

    def __init__(
        self,
        root: str,
        index: Index,
        encodings: Sequence[str] = (),
        groups: int = 1,
        cache: GroupCache | None = None,
        version: str = "",
        open_files: int = OPEN_FILES,
    ):
        self.root, self.encodings = root, [index.encodings[name] for name in encodings]
        self.fetched_bytes = self.row_bytes = 0
        """Bytes of the row groups that this reader fetched, and of the rows that it gave."""
        self._cache, self._prefix = cache, "-".join([version, *(encoding.folder for encoding in self.encodings)])
        self._group = functools.lru_cache(maxsize=groups)(self._read_group)
        self._file = functools.lru_cache(maxsize=open_files)(self._open_file)

    def row(self, shard: str, group: int, row: int) -> StoredSample:
        """Read row number `row` of a row group."""
        table = self._group(shard, group).slice(row, 1)
        if self._cache is not None:
            self._cache.touch(self._name(shard, group))
        self.row_bytes += table.nbytes
        stored = table.to_pylist()[0]
        arrays: dict[str, StoredArray | None] = {}
        for encoding in self.encodings:
            for name, shape in encoding.columns.items():
                data = stored[name]
                arrays[name] = StoredArray(np.frombuffer(data, np.float16).reshape(shape)) if data else None
        return StoredSample(Sample.of_row(stored), arrays)

    def _read_group(self, shard: str, group: int) -> pa.Table:
        """Read a row group from the cache, or from its files where there is none."""
        fetch = functools.partial(self._fetch_group, shard, group)
        return fetch() if self._cache is None else self._cache.read(self._name(shard, group), fetch)

    def _fetch_group(self, shard: str, group: int) -> pa.Table:
        table = self._fetch_columns(path_of(self.root, shard), group)
        for encoding in self.encodings:
            encoded = self._fetch_columns(path_of(self.root, shard, encoding.folder), group)
            for name in encoded.column_names:
                table = table.append_column(name, encoded.column(name))
        return table

    def _fetch_columns(self, path: str, group: int) -> pa.Table:
        file = self._file(path)
        self.fetched_bytes += file.metadata.row_group(group).total_byte_size
        return file.read_row_group(group, use_threads=False)

    def _open_file(self, path: str) -> pq.ParquetFile:
        return _open(path, pre_buffer=True)  # a row group is then one request to a bucket, instead of one a column

    def _name(self, shard: str, group: int) -> str:
        """Name of a row group in the cache."""
        return f"{self._prefix}-{shard}-{group}"
