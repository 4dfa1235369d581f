"""Edit pairs in the parquet files of Hugging Face sets: opened by the columns that are read, one record a sample."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fireedit.platform import storage
from fireedit.platform.data.corpora import rows
from fireedit.platform.data.sample import NO_IMAGE, Sample

ROWS_AT_ONCE = 8
"""Of a parquet file in memory: a row may hold megabytes of pictures."""
BUFFER_BYTES = 4 << 20
"""What is read of a column at once; without a buffer it would be all that a file's row group holds of it."""


def records(
    root: str,
    corpus: str,
    prefixes: tuple[str, ...],
    columns: Sequence[str],
    pictures: Sequence[str],
    to_sample: Callable[[dict[str, Any]], Sample],
    optional: Sequence[str] = (),
) -> rows.Corpus:
    """The records of all ROOT/data/PREFIX*.parquet; each file is a part.

    Only `columns`, some of them `pictures`, are read, and those `optional` pictures that a file has (see `read_file`):
    in others the files of one set may disagree, null here and text there.

    Raises:
        CorpusError: no such files, or the first of them has not these columns. A later one that has not is a bad row.
    """
    paths = open_files(root, corpus, prefixes, columns, pictures)
    return records_of(paths, corpus, columns, pictures, to_sample, optional)


def records_of(
    paths: Sequence[str],
    corpus: str,
    columns: Sequence[str],
    pictures: Sequence[str],
    to_sample: Callable[[dict[str, Any]], Sample],
    optional: Sequence[str] = (),
) -> rows.Corpus:
    """Open these files as `records` does those of a published corpus."""
    column_names(paths[0], columns, pictures)
    return rows.Corpus(paths, _RecordsOf(corpus, tuple(columns), tuple(pictures), tuple(optional), to_sample))


def column_names(path: str, columns: Sequence[str] = (), pictures: Sequence[str] = ()) -> list[str]:
    """List the columns of a parquet file, which must have `columns`, some of them `pictures`.

    Raises:
        CorpusError: it is no parquet file with these columns.
    """
    try:
        with _opened(path, columns, pictures) as file:
            return list(file.schema_arrow.names)
    except rows.BadRow as bad:
        raise rows.CorpusError(str(bad)) from None


def open_files(
    root: str, corpus: str, prefixes: tuple[str, ...], columns: Sequence[str], pictures: Sequence[str]
) -> list[str]:
    """The paths of all ROOT/data/PREFIX*.parquet; only the first is opened, for a set may have hundreds.

    Raises:
        CorpusError: there are none, or the first has not these columns.
    """
    folder = rows.require(root, "data", f"the folder of parquet files of {corpus}")
    names = [name for name in storage.names(folder) if name.startswith(prefixes) and name.endswith(".parquet")]
    if not names:
        wanted = " and no ".join(f"{prefix}*.parquet" for prefix in prefixes)
        raise rows.CorpusError(f"{folder} has no {wanted}; found {rows.listing(folder)}")
    paths = [storage.join(folder, name) for name in names]
    column_names(paths[0], columns, pictures)
    return paths


def read_file(
    path: str, columns: Sequence[str], pictures: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """A file's records by column, pictures as `{bytes, path}`; few are in memory at a time.

    Args:
        optional: pictures that some files lack. Where this one has no such column, or a null-typed one, its records
            have no such key.
    Raises:
        BadRow: this is no parquet file with these columns.
        OSError: it could not be read, or is damaged in the middle.
    """
    with _opened(path, columns, pictures) as file:
        found = file.schema_arrow
        present = [name for name in optional if name in found.names and _holds_pictures(found.field(name).type)]
        try:
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=[*columns, *present]):
                yield from batch.to_pylist()
        except OSError as error:
            raise OSError(f"{path}: {error}") from error


def file_name(path: str) -> str:
    """The name alone of one of the files, whose path may be an `s3://` address with options."""
    return storage.filesystem(path)[1].rpartition("/")[2]


def bad_file(corpus: str, path: str, bad: rows.BadRow) -> Sample:
    """The one bad row that a file becomes when it cannot be read, so that the corpus goes on without it."""
    return Sample(id=f"{corpus}/{file_name(path)}", corpus=corpus, task="edit", error=str(bad))


def read_pair(record: dict[str, Any], folder: str, key: str, *, source: str, instruction: str, target: str) -> Sample:
    """One edit of one record, whose pictures are `{bytes, path}`; the last three name its columns.

    Args:
        folder: corpus and split, `magicbrush/train`.
        key: what the set itself calls the record, if anything; a hash of instruction and pixels makes the id unique,
            so that it outlives another cut of the set into files.
    """
    before, after = (picture_bytes(record, column) for column in (source, target))
    text = said(record, instruction)
    digest = hashlib.blake2b(b"\0".join((text.encode(), before, after)), digest_size=8).hexdigest()
    corpus, name, error = folder.partition("/")[0], f"{folder}/{key}-{digest}" if key else f"{folder}/{digest}", ""
    try:
        if not text:
            raise rows.BadRow(f"{instruction}: found no text")
        first, second = rows.check_picture(before, source), rows.check_picture(after, target)
    except rows.BadRow as bad:
        first, second, error = NO_IMAGE, NO_IMAGE, f"{name}: {bad}"
    return Sample(id=name, corpus=corpus, task="edit", instruction=text, source=first, target=second, error=error)


def picture_bytes(record: dict[str, Any], column: str) -> bytes:
    """What a picture's column holds, not yet decoded; empty where it holds nothing."""
    found = record.get(column) or b""
    return found if isinstance(found, bytes) else found.get("bytes") or b""


def said(record: dict[str, Any], column: str) -> str:
    """What a text's column holds, stripped; empty where it holds none."""
    found = record[column]
    return found.strip() if isinstance(found, str) else ""


@contextmanager
def _opened(path: str, columns: Sequence[str], pictures: Sequence[str]) -> Iterator[pq.ParquetFile]:
    files, inner = storage.filesystem(path)
    try:
        file = pq.ParquetFile(inner, filesystem=files, buffer_size=BUFFER_BYTES, pre_buffer=False)
    except pa.ArrowInvalid as error:
        raise rows.BadRow(f"{path} is not a parquet file: {error}; fetch it again") from None
    with file:
        found = file.schema_arrow
        if missing := [column for column in columns if column not in found.names]:
            raise rows.BadRow(f"{path} has no column {', '.join(missing)}; found {', '.join(found.names)}")
        if bare := [column for column in pictures if not _holds_pictures(found.field(column).type)]:
            kinds = "they are {bytes, path} or bytes"
            raise rows.BadRow(f"{path}: the column {', '.join(bare)} holds no pictures; {kinds}")
        if null := [column for column in columns if pa.types.is_null(found.field(column).type)]:
            raise rows.BadRow(f"{path}: the column {', '.join(null)} holds nothing; fetch it again")
        yield file


def _holds_pictures(kind: pa.DataType) -> bool:
    inner = kind.field("bytes").type if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind
    return pa.types.is_binary(inner) or pa.types.is_large_binary(inner)


@dataclasses.dataclass(frozen=True)
class _RecordsOf:
    corpus: str
    columns: tuple[str, ...]
    pictures: tuple[str, ...]
    optional: tuple[str, ...]
    to_sample: Callable[[dict[str, Any]], Sample]

    def __call__(self, path: str) -> Iterator[Sample]:
        try:
            yield from map(self.to_sample, read_file(path, self.columns, self.pictures, self.optional))
        except rows.BadRow as bad:
            yield bad_file(self.corpus, path, bad)
