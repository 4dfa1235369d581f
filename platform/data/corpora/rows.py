"""Shared parts of the corpus readers: an opened corpus, its errors, and the reading of its files."""

import codecs
import contextlib
import dataclasses
import functools
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np
from pyarrow.fs import FileType

from fireedit.platform import images, storage
from fireedit.platform.data.sample import Sample

ROWS_PER_PART = 512
"""Files that one reading task opens."""

CLUTTER = frozenset(
    ["__macosx", "__pycache__", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "lost+found"]
    + ["system volume information", "icon\r"]
)
"""Names, in lower case, of files and folders that systems and archivers leave beside data."""
CLUTTER_STARTS = (".", "~$")
CLUTTER_ENDS = ("~", ".lock", ".tmp", ".part", ".crdownload", ".aria2", ".bak", ".swp", ".orig")
CLUTTER_REASON = "files that systems, tools and archivers leave"
COMPANION_REASON = "files that tools write beside a data file, NAME_*"

T = TypeVar("T")
CorpusPart: TypeAlias = Any
"""Input of one reading task, small and picklable: a file, some of its rows."""


@dataclasses.dataclass(frozen=True)
class Skip:
    """Entries that hold no sample by the corpus's own format, or no data at all: neither rows nor damage."""

    reason: str
    """Noun phrase in the plural."""
    count: int = 1


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A corpus whose files were found to be what its name says, not yet read."""

    parts: Sequence[CorpusPart]
    """In the same order whenever the same files are opened."""
    read_part: Callable[[CorpusPart], Iterator[Sample | Skip]]
    """Reader of one part's samples in turn; a bad row is a sample with `error`, a `Skip` is none."""
    light: bool = False
    """True for rows of a few words and no picture, many of which fit into one read."""
    skipped: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Entries passed over when the corpus was opened, by reason; those of a part come from `read_part`."""
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Settings besides name and split that the rows depend on; shards of a corpus keep them."""

    def __iter__(self) -> Iterator[Sample]:
        for part in self.parts:
            yield from (item for item in self.read_part(part) if isinstance(item, Sample))


class CorpusError(ValueError):
    """A folder that is not the corpus its name says; names the file, what was found and what to write."""


class BadRow(ValueError):
    """Row that cannot be read; the reader turns it into a sample with `error` set."""


Item: TypeAlias = tuple[str, Any]
"""Id, and contents before any picture is read, or the BadRow that they are."""


def in_parts(
    items: Sequence[Item], read: Callable[[str, Any], Iterable[Sample]], skipped: Mapping[str, int] | None = None
) -> Corpus:
    """Corpus of the samples that `read` makes of each item, cut into parts of ROWS_PER_PART items."""
    return Corpus(sliced(items), functools.partial(read_items, read), skipped=+Counter(skipped))


def read_items(read: Callable[[str, Any], Iterable[Sample]], items: Iterable[Item]) -> Iterator[Sample]:
    """Read the samples of each item by its id and contents; a bad item makes one bad row under its id."""
    for name, item in items:
        try:
            if isinstance(item, BadRow):
                raise item
            yield from read(name, item)
        except BadRow as bad:
            yield Sample(id=name, corpus=name.partition("/")[0], task="edit", error=f"{name}: {bad}")


def sliced(items: Sequence[T]) -> list[Sequence[T]]:
    """Cut the items, in their order, into runs of ROWS_PER_PART."""
    return [items[start : start + ROWS_PER_PART] for start in range(0, len(items), ROWS_PER_PART)]


def is_clutter(path: str) -> bool:
    """Check if a relative path leads to a file that is no data: hidden, a lock, a half download, a system's own."""
    names = [name for name in path.lower().rstrip("/").split("/") if name not in (".", "..")]
    if names and names[-1].endswith(CLUTTER_ENDS):
        return True
    return any(name in CLUTTER or name.startswith(CLUTTER_STARTS) for name in names)


def data_names(folder: str, skipped: Counter[str]) -> list[str]:
    """List a folder, sorted, without clutter; what is left out is counted in `skipped`."""
    listed = storage.names(folder)
    names = [name for name in listed if not is_clutter(name)]
    if len(names) < len(listed):
        skipped[CLUTTER_REASON] += len(listed) - len(names)
    return names


def companions(names: Collection[str]) -> set[str]:
    """Names that extend another one of them, as NAME_labelTrainIds does NAME."""
    known = set(names)
    return {name for name in known if any(name[:at] in known for at, mark in enumerate(name) if mark in "_. ")}


@contextlib.contextmanager
def opening(path: str, name: str, error_type: type[ValueError]) -> Iterator[None]:
    """Raise `error_type` with `name` where `path` cannot be opened; a failing disk or server stays an OSError."""
    try:
        yield
    except OSError as error:
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            reason = "no such file"
        elif isinstance(error, PermissionError):
            reason = "found a file that may not be read; change its permissions"
        elif storage.info(path).type == FileType.Directory:
            reason = "found a folder; write a file"
        else:
            raise
        raise error_type(f"{name}: {reason}") from None


def advice(path: str) -> str:
    """Recommend how to get the real file in place of the damaged one at `path`."""
    files, inner = storage.filesystem(path)
    with files.open_input_stream(inner) as stream:
        start = stream.read(256).lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git-LFS pointer: run git lfs pull"
    if start.startswith((b"<!doctype html", b"<html")):
        return "it is an HTML page: download the file itself"
    return "fetch it again"


def load(path: str) -> bytes:
    """Read a file that the whole corpus hangs on; a CorpusError if it cannot be opened."""
    with opening(path, path, CorpusError):
        return storage.read_bytes(path)


def read_lines(path: str) -> list[str]:
    """Read a text file's lines without their ends and without a byte-order mark; a byte that is not UTF-8 is U+FFFD."""
    return [line.decode(errors="replace") for line in load(path).removeprefix(codecs.BOM_UTF8).splitlines()]


def read_json(path: str, object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Read a JSON file whole; a CorpusError if it is none."""
    data = load(path)
    try:
        return json.loads(data, object_pairs_hook=object_pairs_hook)
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{path} is not JSON: {error}; {advice(path)}") from None


def read_object(path: str, wanted: str) -> dict[str, Any]:
    """Read the members of a JSON file's object, in the file's order.

    Args:
        wanted: contents that the file should have, `an object of edits keyed '0000', '0001', ...`, for the error.
    Raises:
        CorpusError: no JSON, no object or an empty one, or a key twice, of which Python would drop one in silence.
    """

    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        repeated.extend(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        return dict(pairs)

    repeated: list[str] = []
    members = read_json(path, collect)
    if repeated:
        raise CorpusError(f"{path}: the key {repeated[0]!r} stands twice; fetch it again")
    if not isinstance(members, dict) or not members:
        found = "an empty object" if members == {} else f"a {type(members).__name__}"
        raise CorpusError(f"{path}: found {found}; write {wanted}")
    return members


def read_picture(root: str, name: str) -> images.EncodedImage:
    """Read the bytes of the picture file ROOT/NAME; a BadRow if it is missing or damaged."""
    return check_picture(read_bytes(root, name), name)


def check_picture(data: bytes | None, name: str) -> images.EncodedImage:
    """Return `data` if it decodes to its last byte, at the cheapest size, else raise BadRow with `name`."""
    try:
        images.decode(data or b"", draft=8)
    except images.ImageError as error:
        raise BadRow(f"{name}: {error}") from None
    return images.EncodedImage(data or b"")


def decoded(root: str, name: str, decode: Callable[[bytes], np.ndarray] = images.decode) -> np.ndarray:
    """Decode the picture file ROOT/NAME; a BadRow if it is missing or damaged."""
    try:
        return decode(read_bytes(root, name))
    except images.ImageError as error:
        raise BadRow(f"{name}: {error}") from None


def read_bytes(root: str, name: str) -> bytes:
    """Read the file ROOT/NAME; a BadRow if it cannot be opened or is empty."""
    path = storage.join(root, name)
    with opening(path, name, BadRow):
        data = storage.read_bytes(path)
    if not data:
        raise BadRow(f"{name}: found an empty file; fetch it again")
    return data


def field(record: Any, name: str, kind: type[T]) -> T:
    """Return a field of a JSON object, which must be there and of this type, else raise BadRow."""
    value = record.get(name) if isinstance(record, dict) else record
    if not isinstance(record, dict) or not isinstance(value, kind):
        raise BadRow(f"found {value!r:.40}; write an object whose {name!r} is a {kind.__name__}")
    return value


def inside(name: str) -> str:
    """Return `name` if it leads to a file below the corpus's folder, else raise BadRow."""
    if not name or name.startswith("/") or ".." in name.split("/") or storage.is_remote(name):
        raise BadRow(f"found the path {name!r:.60}; write one relative to the corpus's folder")
    return name


def require(root: str, name: str, what: str) -> str:
    """Return the path of the file or folder ROOT/NAME, or raise CorpusError; `what` describes it there."""
    path = storage.join(root, name)
    if storage.exists(path):
        return path
    raise CorpusError(f"{path} is missing: {what}; found in {root}: {listing(root)}")


def listing(folder: str) -> str:
    """Name the first files of a folder, for an error message."""
    names = storage.names(folder)
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "nothing"


def require_split(corpus: str, split: str, known: Sequence[str]) -> None:
    """Refuse a split that the corpus does not have."""
    if split not in known:
        raise CorpusError(f"{corpus} has no split {split!r}; write {' or '.join(known)}")
