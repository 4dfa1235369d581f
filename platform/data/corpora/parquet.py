"""Edit pairs in the parquet files of Hugging Face sets: opened by the columns that are read, one record a sample."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray.data

from fireedit.platform import storage
from fireedit.platform.data.corpora import rows
from fireedit.platform.data.sample import Sample


def lazy_records(
    root: str,
    corpus: str,
    prefixes: tuple[str, ...],
    columns: Sequence[str],
    pictures: Sequence[str],
    to_row: Callable[[dict[str, Any]], dict[str, Any]],
) -> ray.data.Dataset:
    """The records of all ROOT/data/PREFIX*.parquet as rows.

    Only `columns`, some of them `pictures`, are read: in others the files of one set may disagree, null here and text
    there.

    Raises:
        CorpusError: no such files, or the first of them has not these columns.
    """
    folder = rows.require(root, "data", f"the folder of parquet files of {corpus}")
    names = [name for name in storage.names(folder) if name.startswith(prefixes) and name.endswith(".parquet")]
    if not names:
        wanted = " and no ".join(f"{prefix}*.parquet" for prefix in prefixes)
        raise rows.CorpusError(f"{folder} has no {wanted}; found {rows.listing(folder)}")
    paths = [storage.join(folder, name) for name in names]
    _require_columns(paths[0], columns, pictures)
    table = ray.data.read_parquet(paths, num_cpus=rows.MAP_CPUS).select_columns(list(columns))
    return table.map(to_row, num_cpus=rows.MAP_CPUS)


def read_pair(record: dict[str, Any], folder: str, key: str, *, source: str, instruction: str, target: str) -> Sample:
    """One edit of one record, whose pictures are `{bytes, path}`; the last three name its columns.

    Args:
        folder: corpus and split, `magicbrush/train`.
        key: what the set itself calls the record; a hash of instruction and pixels makes the id unique.
    """
    before, after = (record[column] or {} for column in (source, target))
    text = (record[instruction] or "").strip()
    parts = (text.encode(), before.get("bytes") or b"", after.get("bytes") or b"")
    digest = hashlib.blake2b(b"\0".join(parts), digest_size=8).hexdigest()
    corpus, name, error = folder.partition("/")[0], f"{folder}/{key}-{digest}", ""
    try:
        if not text:
            raise rows.BadRow(f"{instruction}: found no text")
        first = rows.check_picture(before.get("bytes"), source)
        second = rows.check_picture(after.get("bytes"), target)
    except rows.BadRow as bad:
        first, second, error = b"", b"", f"{name}: {bad}"
    return Sample(id=name, corpus=corpus, task="edit", instruction=text, source=first, target=second, error=error)


def _require_columns(path: str, columns: Sequence[str], pictures: Sequence[str]) -> None:
    files, inner = storage.filesystem(path)
    try:
        found = pq.read_schema(inner, filesystem=files)
    except pa.ArrowInvalid as error:
        raise rows.CorpusError(f"{path} is not a parquet file: {error}; fetch it again") from None
    if missing := [column for column in columns if column not in found.names]:
        raise rows.CorpusError(f"{path} has no column {', '.join(missing)}; found {', '.join(found.names)}")
    if bare := [column for column in pictures if not pa.types.is_struct(found.field(column).type)]:
        raise rows.CorpusError(f"{path}: the column {', '.join(bare)} holds no pictures; they are {{bytes, path}}")
    if null := [column for column in columns if pa.types.is_null(found.field(column).type)]:
        raise rows.CorpusError(f"{path}: the column {', '.join(null)} holds nothing; fetch it again")
