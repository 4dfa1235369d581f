"""Shards: the checked rows of one corpus in parquet files of one schema, read at any place.

A folder of shards holds

    rows/00012-00.parquet     rows of part 12 of the corpus, in row groups of one size
    parts/00012.json          part 12 is finished: its shards, what was read, kept and set aside
    latents-1a2b3c4d/         as rows/, row by row the same: what the encoder of this hash made of them
    index.json                all parts are finished: the shards and their rows
    quarantine.parquet        every row that was set aside: its id, its file's part and the error
    report.json               what a person wants to know of all this
"""

import dataclasses
import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from fireedit.platform import storage

INDEX = "index.json"
ROWS, PARTS = "rows", "parts"
ROWS_PER_GROUP = 32
"""What one random access reads; a group of 512 px pairs is about 4 MB."""
CAPTIONS_PER_GROUP = 1024
GROUPS_PER_SHARD = 8
OPEN_FILES = 64
"""Footers that a reader remembers."""

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("corpus", pa.string()),
        ("task", pa.string()),
        ("instruction", pa.string()),
        ("plain", pa.string()),
        ("questions", pa.list_(pa.string())),
        ("answers", pa.list_(pa.string())),
        ("source", pa.binary()),
        ("target", pa.binary()),
        ("boxes", pa.list_(pa.list_(pa.float32()))),
    ]
)
"""`Sample` without its error."""

Row = dict[str, Any]
T = TypeVar("T")


class ShardsError(ValueError):
    """Shards that are not there, not finished, or not what is asked for; the message says what to run."""


@dataclasses.dataclass(frozen=True)
class Shard:
    name: str
    rows: int


@dataclasses.dataclass(frozen=True)
class Encoding:
    """What an encoder stored beside the rows of every shard."""

    folder: str
    columns: dict[str, tuple[int, ...]]
    """float16 arrays by name, with the shape that each row's has."""
    weights: str
    """Hash of the encoder's weights: others make other arrays."""


@dataclasses.dataclass(frozen=True)
class Index:
    """The shards of one corpus, in an order that never changes."""

    corpus: str
    split: str
    world: str
    """Which world its scenes were drawn from: `train`, or one held out; empty for real pictures."""
    shards: list[Shard]
    encodings: dict[str, Encoding] = dataclasses.field(default_factory=dict)
    rows_per_group: int = ROWS_PER_GROUP

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    @property
    def fingerprint(self) -> str:
        """Changes when other rows, or the same in another order, would be drawn from these shards."""
        return hashlib.blake2b(repr((self.shards, self.rows_per_group)).encode(), digest_size=8).hexdigest()

    def groups(self) -> list[tuple[str, int, int]]:
        """Every row group: its shard's name, its number there, how many rows it holds."""
        return [
            (shard.name, number, min(self.rows_per_group, shard.rows - first))
            for shard in self.shards
            for number, first in enumerate(range(0, shard.rows, self.rows_per_group))
        ]


def read_index(root: str) -> Index:
    """The index of the shards under `root`.

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


def write_index(root: str, index: Index) -> None:
    storage.write_bytes(storage.join(root, INDEX), json.dumps(dataclasses.asdict(index)).encode())


def path_of(root: str, shard: str, folder: str = ROWS) -> str:
    """The file of a shard, or of an encoding of it."""
    return storage.join(root, folder, f"{shard}.parquet")


def write_table(path: str, schema: pa.Schema, rows: Iterable[Row], rows_per_group: int = ROWS_PER_GROUP) -> int:
    """One parquet file of the row groups that `ShardReader` counts on, whole or not at all; returns its bytes.

    Pictures are compressed already, and no two are alike: nothing is compressed, looked up or summed up.
    """
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, schema, compression="none", use_dictionary=False, write_statistics=False) as writer:
        for group in batched(rows, rows_per_group):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
    data = sink.getvalue().to_pybytes()
    storage.write_bytes(path, data)
    return len(data)


def batched(items: Iterable[T], count: int) -> Iterator[list[T]]:
    """Runs of `count` items; the last may be shorter."""
    remaining = iter(items)
    while run := list(islice(remaining, count)):
        yield run


def read_ids(root: str, shard: str) -> list[str]:
    """The ids of a shard's rows, nothing else of it read."""
    files, inner = storage.filesystem(path_of(root, shard))
    return pq.read_table(inner, filesystem=files, columns=["id"]).column("id").to_pylist()


def iter_rows(root: str, shard: str) -> Iterator[Row]:
    """The rows of one shard in their order, without encodings."""
    files, inner = storage.filesystem(path_of(root, shard))
    with pq.ParquetFile(inner, filesystem=files) as file:
        for batch in file.iter_batches(ROWS_PER_GROUP):
            yield from batch.to_pylist()


class ShardReader:
    """Rows of one corpus's shards by their place; remembers the groups last read.

    Args:
        encodings: names of those to hand on with the rows, as float16 arrays.
        groups: how many row groups are kept in memory.
    """

    def __init__(self, root: str, index: Index, encodings: Sequence[str] = (), groups: int = 1):
        self.root, self.index, self.encodings = root, index, tuple(encodings)
        self.most_groups = groups
        self._files: OrderedDict[str, pq.ParquetFile] = OrderedDict()
        self._groups: OrderedDict[tuple[str, int], pa.Table] = OrderedDict()

    def row(self, shard: str, group: int, row: int) -> Row:
        """Row number `row` of a group, by the names of SCHEMA and of the encodings' columns."""
        key = (shard, group)
        if key not in self._groups:
            _forget_oldest(self._groups, self.most_groups - 1)
            self._groups[key] = self._read_group(shard, group)
        self._groups.move_to_end(key)
        found = self._groups[key].slice(row, 1).to_pylist()[0]
        found.setdefault("plain", "")  # older shards have no such column
        for encoding in self.encodings:
            for name, shape in self.index.encodings[encoding].columns.items():
                found[name] = np.frombuffer(found[name], np.float16).reshape(shape) if found[name] else None
        return found

    def _read_group(self, shard: str, group: int) -> pa.Table:
        table = self._open(path_of(self.root, shard)).read_row_group(group, use_threads=False)
        for encoding in self.encodings:
            path = path_of(self.root, shard, self.index.encodings[encoding].folder)
            beside = self._open(path).read_row_group(group, use_threads=False)
            for name in beside.column_names:
                table = table.append_column(name, beside.column(name))
        return table

    def _open(self, path: str) -> pq.ParquetFile:
        if path not in self._files:
            for closed in _forget_oldest(self._files, OPEN_FILES - 1):
                closed.close()
            files, inner = storage.filesystem(path)
            self._files[path] = pq.ParquetFile(inner, filesystem=files)
        self._files.move_to_end(path)
        return self._files[path]


def _forget_oldest(remembered: OrderedDict[Any, Any], most: int) -> list[Any]:
    return [remembered.popitem(last=False)[1] for _ in range(len(remembered) - most)]
