"""Edit pairs in the parquet files of Hugging Face sets: opened by the columns that are read, one record a sample."""

import dataclasses
import functools
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fireedit.platform import storage
from fireedit.platform.data.corpora import masks, rows
from fireedit.platform.data.sample import Sample

ROWS_AT_ONCE = 8
"""Rows of a parquet file in memory: one may hold megabytes of pictures."""
BUFFER_BYTES = 4 << 20
"""Bytes of a column that are read at once; without a buffer it would be the whole column of a row group."""


@dataclasses.dataclass(frozen=True)
class PairReader:
    """Reader of one parquet file's records as edit pairs.

    Only the columns named here are read: in others the files of one set may disagree, null here and text there.
    """

    folder: str
    """Corpus and split, `magicbrush/train`."""
    columns: Mapping[str, str]
    """Columns of `source`, `instruction` and `target`, and of a `mask` that files and records may lack."""
    key: Sequence[str] = ()
    """Columns that name a record in the set, if any."""
    erased: bool = False
    """True if masks are sources with an erased part, False if they are black and white."""

    def __call__(self, path: str) -> Iterator[Sample]:
        try:
            records = read_file(path, self.required, self.pictures, self.optional)
            for number, record in enumerate(records, start=1):
                yield dataclasses.replace(self.to_sample(record), read_from=(path, number))
        except rows.BadRow as bad:
            yield bad_file(self.folder.partition("/")[0], path, bad)

    @property
    def required(self) -> list[str]:
        return [*self.key, *(self.columns[role] for role in ("source", "instruction", "target"))]

    @property
    def pictures(self) -> list[str]:
        return [self.columns["source"], self.columns["target"]]

    @property
    def optional(self) -> list[str]:
        return [self.columns["mask"]] if "mask" in self.columns else []

    def to_sample(self, record: dict[str, Any]) -> Sample:
        """Make one record a sample; a hash of instruction and pictures makes its id unique in any cut into files."""
        before, after = (picture_bytes(record, column) for column in self.pictures)
        text = text_of(record, self.columns["instruction"])
        digest = hashlib.blake2b(b"\0".join((text.encode(), before, after)), digest_size=8).hexdigest()
        name = f"{self.folder}/" + "-".join([*(str(record[column]) for column in self.key), digest])
        sample = Sample(id=name, corpus=self.folder.partition("/")[0], task="edit", instruction=text)
        try:
            if not text:
                raise rows.BadRow(f"{self.columns['instruction']}: found no text")
            source, target = map(rows.check_picture, (before, after), self.pictures)
            return dataclasses.replace(sample, source=source, target=target, boxes=self._boxes(record, source))
        except rows.BadRow as bad:
            return dataclasses.replace(sample, error=f"{name}: {bad}")

    def _boxes(self, record: dict[str, Any], source: bytes) -> tuple[masks.Box, ...]:
        column = self.columns.get("mask", "")
        decode = functools.partial(masks.erased, source=source) if self.erased else masks.bright
        return masks.boxes(picture_bytes(record, column) or None, decode, column)


def open_pairs(root: str, prefixes: tuple[str, ...], reader: PairReader) -> rows.Corpus:
    """Open the pairs of all ROOT/data/PREFIX*.parquet; each file is a part.

    Raises:
        CorpusError: no such files, or the first of them has not the columns. A later one that has not is a bad row.
    """
    skipped: Counter[str] = Counter()
    return open_files(list_files(root, reader.folder.partition("/")[0], prefixes, skipped), reader, skipped)


def open_files(paths: Sequence[str], reader: PairReader, skipped: Mapping[str, int]) -> rows.Corpus:
    """Open the pairs of these files; only the first is looked at, for a set may have hundreds."""
    column_names(paths[0], reader.required, reader.pictures)
    return rows.Corpus(paths, reader, skipped=skipped)


def list_files(root: str, corpus: str, prefixes: tuple[str, ...], skipped: Counter[str]) -> list[str]:
    """List the paths of all ROOT/data/PREFIX*.parquet; files there that are no data are counted in `skipped`.

    Raises:
        CorpusError: there are none.
    """
    folder = rows.require(root, "data", f"the folder of parquet files of {corpus}")
    names = rows.data_names(folder, skipped)
    paths = [storage.join(folder, name) for name in names if name.startswith(prefixes) and name.endswith(".parquet")]
    if not paths:
        wanted = " and no ".join(f"{prefix}*.parquet" for prefix in prefixes)
        raise rows.CorpusError(f"{folder} has no {wanted}; found {rows.listing(folder)}")
    return paths


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


def read_file(
    path: str, columns: Sequence[str], pictures: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """Stream a file's records by column, pictures as `{bytes, path}`; few are in memory at a time.

    Args:
        optional: pictures that some files lack. Where this one has no such column, or a null-typed one, its records
            have no such key.
    Raises:
        BadRow: this is no parquet file with these columns.
        OSError: it could not be read, or is damaged in the middle.
    """
    with _opened(path, columns, pictures) as file:
        schema = file.schema_arrow
        present = [name for name in optional if name in schema.names and _holds_pictures(schema.field(name).type)]
        try:
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=[*columns, *present]):
                yield from batch.to_pylist()
        except OSError as error:
            raise OSError(f"{path}: {error}") from error


def file_name(path: str) -> str:
    """Return the name alone of one of the files, whose path may be an `s3://` address with options."""
    return storage.filesystem(path)[1].rpartition("/")[2]


def bad_file(corpus: str, path: str, bad: rows.BadRow) -> Sample:
    """Make a file that cannot be read one bad row, so that the corpus goes on without it."""
    return Sample(id=f"{corpus}/{file_name(path)}", corpus=corpus, task="edit", error=str(bad))


def picture_bytes(record: dict[str, Any], column: str) -> bytes:
    """Return a picture's bytes, not yet decoded; empty where the column holds nothing."""
    value = record.get(column) or b""
    return value if isinstance(value, bytes) else value.get("bytes") or b""


def text_of(record: dict[str, Any], column: str) -> str:
    """Return a column's text, stripped; empty where it holds none."""
    value = record[column]
    return value.strip() if isinstance(value, str) else ""


@contextmanager
def _opened(path: str, columns: Sequence[str], pictures: Sequence[str]) -> Iterator[pq.ParquetFile]:
    files, inner = storage.filesystem(path)
    try:
        with rows.opening(path, path, rows.BadRow):
            file = pq.ParquetFile(inner, filesystem=files, buffer_size=BUFFER_BYTES, pre_buffer=False)
    except pa.ArrowInvalid as error:
        raise rows.BadRow(f"{path} is not a parquet file: {error}; {rows.advice(path)}") from None
    with file:
        schema = file.schema_arrow
        if missing := [column for column in columns if column not in schema.names]:
            raise rows.BadRow(f"{path} has no column {', '.join(missing)}; found {', '.join(schema.names)}")
        if bare := [column for column in pictures if not _holds_pictures(schema.field(column).type)]:
            kinds = "they are {bytes, path} or bytes"
            raise rows.BadRow(f"{path}: the column {', '.join(bare)} holds no pictures; {kinds}")
        if null := [column for column in columns if pa.types.is_null(schema.field(column).type)]:
            raise rows.BadRow(f"{path}: the column {', '.join(null)} holds nothing; fetch it again")
        yield file


def _holds_pictures(kind: pa.DataType) -> bool:
    inner = kind.field("bytes").type if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind
    return pa.types.is_binary(inner) or pa.types.is_large_binary(inner)
