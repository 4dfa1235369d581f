"""Parquet files as on the Hugging Face hub: images are structs, and the schema's metadata declares the features."""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from fireedit.platform.data.shards import batched

ROWS_PER_GROUP = 100
"""Row group of the hub's image sets; a reader holds one in memory."""
ROWS_PER_FILE = 2000
"""Rows per file; a reading task takes a file, so a set must not be a single one."""

Column = Literal["string", "int32", "int64", "float64", "null", "image"]

_COLUMNS: dict[type, Column] = {bytes: "image", str: "string", int: "int64", type(None): "null"}
"""Types of columns by the type of their values."""
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write_parquet(
    folder: Path,
    split: str,
    rows: Iterable[Mapping[str, Any]],
    columns: Mapping[str, Column] = {},
    rows_per_file: int = ROWS_PER_FILE,
) -> list[Path]:
    """Stream rows into as many `SPLIT-0000N-of-0000M.parquet` as they fill.

    Args:
        rows: values by column; bytes are encoded images, None becomes null.
        columns: types of the columns for which the values of the first row do not show them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drafts: list[Path] = []
    for first in (remaining := iter(rows)):
        columns = {name: columns.get(name) or _COLUMNS[type(value)] for name, value in first.items()}
        file_rows = itertools.chain([first], itertools.islice(remaining, rows_per_file - 1))
        drafts.append(folder / f"{split}-{len(drafts):05d}.part")
        _write_file(drafts[-1], columns, file_rows)
    return [draft.rename(draft.with_name(f"{draft.stem}-of-{len(drafts):05d}.parquet")) for draft in drafts]


def _write_file(path: Path, columns: Mapping[str, Column], rows: Iterable[Mapping[str, Any]]) -> None:
    features = {name: _feature(column) for name, column in columns.items()}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    types = {name: _IMAGE if column == "image" else pa.type_for_alias(column) for name, column in columns.items()}
    schema = pa.schema(types, metadata=metadata)
    with pq.ParquetWriter(path, schema) as writer:
        for group in batched((_record(columns, row) for row in rows), ROWS_PER_GROUP):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))


def split_off(seeds: Iterable[int], every: int, multiples: list[int]) -> Iterator[int]:
    """Yield the seeds that are no multiples of `every`, and append the others to `multiples`."""
    for seed in seeds:
        if seed % every:
            yield seed
        else:
            multiples.append(seed)


def _feature(column: Column) -> dict[str, str]:
    return {"_type": "Image"} if column == "image" else {"dtype": column, "_type": "Value"}


def _record(columns: Mapping[str, Column], row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: {"bytes": row[name], "path": None} if column == "image" and row[name] is not None else row[name]
        for name, column in columns.items()
    }
