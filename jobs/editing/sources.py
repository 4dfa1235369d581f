"""Sources of many edits: a folder of pictures or parquet files, read as batches that are the same in every run.

A folder is listed once, into `sources.parquet` of the job's folder; from then on both kinds are rows of parquet files.
"""

import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from fireedit.models.settings import MAX_SEED
from fireedit.platform import storage
from fireedit.platform.data.corpora import pairs, rows
from fireedit.platform.job_folder import SETTINGS

LISTING = "sources.parquet"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
INSTRUCTION_NAMES = pairs.USUAL_NAMES["instruction"]
IMAGE_NAMES = ("image", *pairs.USUAL_NAMES["source"], pairs.FILE_NAME, "path")
"""Columns that are recognized, best first."""
LISTED = pa.schema([("image", pa.string()), ("instruction", pa.string()), ("id", pa.string()), ("seed", pa.int64())])
LISTED_PER_GROUP = 1024
MAX_BYTES = 200_000_000
"""Size of the largest picture file that is read."""
MAX_NAME_BYTES = 200
"""Size of the longest file or folder name made of an id; disks take 255 bytes, with an end for the draft."""
OPENED_AT_ONCE = 16


class SourcesError(ValueError):
    """Sources or instructions that cannot be edited; the message says what to write instead."""


@dataclass
class EditRow:
    """One edit to make: a picture and its instruction."""

    row: int
    """Place in the sources, counted over all files."""
    id: str
    """Name of the edited picture below `edited/`, without suffix."""
    source: str
    """Path of the picture, or the parquet file and the row in it."""
    instruction: str
    seed: int
    data: bytes = b""
    """Encoded picture."""
    error: str = ""
    """Reason for which the row cannot be edited."""


@dataclass(frozen=True)
class Columns:
    """Columns of the parquet files by their role; empty for one that they lack."""

    image: str
    instruction: str
    id: str
    seed: str

    def names(self) -> list[str]:
        return [name for name in (self.image, self.instruction, self.id, self.seed) if name]


@dataclass(frozen=True)
class Group:
    """Row group of a parquet file."""

    file: str
    name: str
    """Path of the file below the sources' folder, without suffix: the ids of its rows begin with it."""
    number: int
    first: int
    """Place of its first row, counted over all files."""
    first_in_file: int
    rows: int


@dataclass(frozen=True)
class Sources:
    """Opened sources; `read` may run in another process.

    Args:
        base: folder at which relative paths of pictures begin.
        instruction: text for every row; empty if a column has it.
        seed: seed of the job, from which rows without their own get theirs.
    """

    base: str
    groups: Sequence[Group]
    columns: Columns
    instruction: str
    seed: int

    @property
    def rows(self) -> int:
        return sum(group.rows for group in self.groups)

    @property
    def fingerprint(self) -> str:
        """Hash that changes when files of the sources come, go, or change their numbers of rows."""
        return _digest(repr([(group.file, group.first, group.rows) for group in self.groups]))

    def require_unique_ids(self) -> None:
        """Raise SourcesError if two rows would be written to one file, or an id names no file."""
        seen = set[str]()
        for file in dict.fromkeys(group.file for group in self.groups) if self.columns.id else ():
            opened = _open(file)
            if missing := [name for name in self.columns.names() if name not in opened.schema_arrow.names]:
                raise SourcesError(f"{file}: found no column {', '.join(missing)}, which other files have; add it")
            for value in opened.read([self.columns.id])[self.columns.id].to_pylist():
                name = require_id(value, file)
                if name in seen:
                    raise SourcesError(
                        f"{file}: the id {name!r} stands twice; write other ids, or no column {self.columns.id}"
                    )
                seen.add(name)

    def read(self, group: Group, places: Sequence[int], batch: int) -> Iterator[list[EditRow]]:
        """Read the rows at `places` of a group, counted from its first; `batch` places in turn make a batch.

        A batch holds the same rows whatever was done before, as long as it was done as a whole. Rows that cannot be
        read are in it with their error.
        """
        wanted, place = set(places), 0
        try:
            file = _open(group.file)
            for records in file.iter_batches(batch, row_groups=[group.number], columns=self.columns.names()):
                numbered = enumerate(records.to_pylist(), start=place)
                edits = [self._edit(group, each, record) for each, record in numbered if each in wanted]
                place += len(records)
                if edits:
                    yield edits
        except (OSError, ValueError, LookupError, pa.ArrowException) as error:  # not UTF-8, or without a column
            left = [each for each in sorted(wanted) if each >= place]
            yield [EditRow(group.first + each, "", group.file, "", 0, error=str(error)) for each in left]

    def _edit(self, group: Group, place: int, record: Mapping[str, Any]) -> EditRow:
        number = group.first_in_file + place
        name = str(record[self.columns.id]) if self.columns.id else f"{group.name}-{number:06d}"
        text = record[self.columns.instruction] if self.columns.instruction else self.instruction
        edit = EditRow(
            row=group.first + place,
            id=name,
            source=f"{group.file}#{number}",
            instruction=text if isinstance(text, str) else "",
            seed=seed_of(name, self.seed),
        )
        try:
            if (seed := record.get(self.columns.seed)) is not None:
                edit.seed = require_seed(seed, self.columns.seed)
        except SourcesError as error:
            edit.error = str(error)
            return edit
        if not edit.instruction.strip():
            edit.error = "found no instruction; write one"
            return edit
        self._load(edit, record[self.columns.image])
        return edit

    def _load(self, edit: EditRow, value: Any) -> None:
        """Fill in the picture's bytes, from the record or from the file that it names."""
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes):
            edit.data = value
        elif isinstance(value, str) and value:
            inside = not storage.is_remote(value) and not value.startswith("/")
            edit.source = storage.join(self.base, value) if inside else value
            try:
                edit.data = read_picture(edit.source)
            except (OSError, ValueError) as error:
                edit.error = f"cannot be read: {error}"
        else:
            edit.error = f"found no picture in the column {self.columns.image}"


def are_many(source: str) -> bool:
    """Return true for a folder, a parquet file or a prefix of a bucket; a missing path is taken for one picture."""
    return _is_parquet(source) or storage.info(source).type == fs.FileType.Directory


def folder_of(source: str) -> str:
    """Return the folder at which relative paths begin: that of a parquet file, or the folder itself."""
    if not _is_parquet(source):
        return source
    address, mark, options = source.partition("?") if storage.is_remote(source) else (source, "", "")
    return address.rpartition("/")[0] + mark + options


def _is_parquet(path: str) -> bool:
    return path.partition("?")[0].endswith(".parquet")


def require_seed(value: Any, where: str) -> int:
    """Return a seed that a source or a command line gives: a whole number from 0 to MAX_SEED, or its digits.

    Raises:
        SourcesError: it is another.
    """
    whole = isinstance(value, Integral) or (isinstance(value, Real) and float(value).is_integer())
    whole = whole or (isinstance(value, str) and value.isascii() and value.isdecimal())
    if whole and 0 <= int(value) <= MAX_SEED:
        return int(value)
    raise SourcesError(f"{where}: found {value!r}; write a whole number from 0 to {MAX_SEED}")


def seed_of(name: str, seed: int) -> int:
    """Return the seed of a row from its id and the seed of the job, whatever its place."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {name}".encode(), digest_size=4).digest(), "big")


def read_picture(path: str) -> bytes:
    """Read a picture file of at most MAX_BYTES."""
    files, inner = storage.filesystem(path)
    with files.open_input_stream(inner) as stream:
        data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise SourcesError(f"found more than {MAX_BYTES:,} bytes; write a smaller file")
    return data


def require_id(value: Any, where: str) -> str:
    """Return an id as text, or raise SourcesError if no file below a folder can have this name."""
    name = str(value) if isinstance(value, str | int) else ""
    parts = name.split("/")
    if (
        not name
        or "\0" in name
        or any(part in ("", ".", "..") or len(part.encode()) > MAX_NAME_BYTES for part in parts)
    ):
        raise SourcesError(f"{where}: found the id {value!r:.60}; write a relative path without '..' and suffix")
    return name


def list_folder(folder: str, instructions: str) -> pa.Table:
    """List the edits of a folder: all its pictures, or those that a file of instructions names, in a fixed order.

    Args:
        instructions: path of JSON lines or CSV with `file_name` or `image`, `instruction` or `prompt`, and perhaps `id`
            and `seed`; empty for all pictures in the folder and in those below it.
    Returns:
        Columns of LISTED.
    Raises:
        SourcesError: there is no picture, or a record lacks a field.
    """
    records = _from_file(instructions) if instructions else _from_folder(folder)
    names = _unique([record.pop("id", None) or _name_of(record["image"]) for record in records])
    return pa.Table.from_pylist([record | {"id": name} for record, name in zip(records, names, strict=True)], LISTED)


def write_listing(path: str, table: pa.Table) -> None:
    """Write a listing in row groups of LISTED_PER_GROUP rows."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=LISTED_PER_GROUP)
    storage.write_bytes(path, buffer.getvalue())


def parquet_files(source: str) -> list[str]:
    """List the parquet files in a folder and below, sorted, or the file itself; none for a folder of pictures."""
    if storage.info(source).type == fs.FileType.File:
        return [source]
    return [storage.join(source, name) for name in _files_below(source) if name.endswith(".parquet")]


def open_parquet(
    files: Sequence[str], base: str, seed: int, instruction: str = "", column: str = "", image_column: str = ""
) -> Sources:
    """Open parquet files by their footers.

    Raises:
        SourcesError: a file is no parquet file, or a column is missing.
    """
    columns = _columns(files[0], bool(instruction), column, image_column)
    groups, first = list[Group](), 0
    with ThreadPoolExecutor(OPENED_AT_ONCE) as pool:
        for file, sizes in zip(files, pool.map(_group_sizes, files), strict=True):
            inside, name = 0, _name_of(_relative(file, base))
            for number, size in enumerate(sizes):
                groups.append(Group(file, name, number, first, inside, size))
                first, inside = first + size, inside + size
    return Sources(base, groups, columns, instruction, seed)


def _columns(file: str, has_instruction: bool, column: str, image_column: str) -> Columns:
    present = _open(file).schema_arrow.names

    def find(role: str, flag: str, named: str, usual: Sequence[str]) -> str:
        found = [name for name in ([named] if named else usual) if name in present]
        if not found:
            raise SourcesError(f"{file}: found no {role} among the columns {', '.join(present)}; write {flag} NAME")
        return found[0]

    text = "" if has_instruction else find("instruction", "--column", column, INSTRUCTION_NAMES)
    image = find("image", "--image-column", image_column, IMAGE_NAMES)
    return Columns(image, text, *(name if name in present else "" for name in ("id", "seed")))


def _group_sizes(file: str) -> list[int]:
    metadata = _open(file).metadata
    return [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]


def _open(file: str) -> pq.ParquetFile:
    files, inner = storage.filesystem(file)
    try:
        return pq.ParquetFile(inner, filesystem=files, buffer_size=4 << 20, pre_buffer=False)
    except pa.ArrowInvalid as error:
        raise SourcesError(f"{file} is no parquet file: {error}; {rows.advice(file)}") from None


def _from_folder(folder: str) -> list[dict[str, Any]]:
    names = [name for name in _files_below(folder) if name.lower().endswith(SUFFIXES)]
    if not names:
        raise SourcesError(
            f"{folder} holds no pictures; found {rows.listing(folder)}; write a folder of {', '.join(SUFFIXES)}"
        )
    return [{"image": name} for name in names]


def _from_file(path: str) -> list[dict[str, Any]]:
    listed = []
    for number, record in enumerate(pairs.read_records(path), start=1):
        image = next((record[name] for name in IMAGE_NAMES if record.get(name)), None)
        text = next((record[name] for name in INSTRUCTION_NAMES if isinstance(record.get(name), str)), None)
        if not isinstance(image, str) or text is None:
            raise SourcesError(f"{path}, record {number}: found {', '.join(record)}; write image and instruction")
        where, name, seed = f"{path}, record {number}", record.get("id"), record.get("seed")
        seed_given = None if seed in (None, "") else require_seed(seed, f"{where}: seed")
        own = {} if name in (None, "") else {"id": require_id(name, where)}
        listed.append({"image": image, "instruction": text, "seed": seed_given} | own)
    return listed


def _files_below(folder: str) -> list[str]:
    """List the files in a folder and below, sorted, relative to it, without those that systems and these jobs leave."""
    files, inner = storage.filesystem(folder)
    found = files.get_file_info(fs.FileSelector(inner, recursive=True))
    start = len(inner.rstrip("/")) + 1
    paths = [info.path[start:] for info in found if info.type == fs.FileType.File]
    outs = tuple(path.removesuffix(SETTINGS) for path in paths if path.endswith(f"/{SETTINGS}"))
    return sorted(path for path in paths if not rows.is_clutter(path) and not (outs and path.startswith(outs)))


def _relative(file: str, folder: str) -> str:
    return storage.filesystem(file)[1].removeprefix(storage.filesystem(folder)[1].rstrip("/") + "/")


def _name_of(path: str) -> str:
    """Make an id of a picture's path: without its suffix, and without what leads out of a folder."""
    pure = PurePosixPath(path.partition("://")[2] or path)
    pure = pure.with_suffix("") if pure.name else pure
    return "/".join(_shortened(part) for part in pure.parts if part not in ("/", "..")) or "picture"


def _shortened(part: str) -> str:
    data = part.encode()
    return part if len(data) <= MAX_NAME_BYTES else f"{data[:150].decode(errors='ignore')}-{_digest(part)}"


def _unique(names: Iterable[str]) -> list[str]:
    """Number the repetitions of a name: a, a-2, a-3."""
    taken, counts, chosen = set[str](), Counter[str](), list[str]()
    for name in names:
        fresh = name
        while fresh in taken:
            counts[name] += 1
            fresh = f"{name}-{counts[name] + 1}"
        taken.add(fresh)
        chosen.append(fresh)
    return chosen


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
