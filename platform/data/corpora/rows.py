"""What all corpus readers share: an opened corpus and its parts, their errors, and reading a file of it."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np

from fireedit.platform import images, storage
from fireedit.platform.data.sample import Sample

ROWS_PER_PART = 512
"""Files that one reading task opens."""

T = TypeVar("T")
Part: TypeAlias = Any
"""What one reading task needs to know, small and picklable: a file, some of its rows."""


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A corpus that was found to be what its name says, opened and not yet read."""

    parts: Sequence[Part]
    """In the same order whenever the same files are opened."""
    read_part: Callable[[Part], Iterator[Sample]]
    """The samples of a part, one by one; a bad row is a sample with `error`."""
    light: bool = False
    """Rows of a few words and no picture, of which one may well read many at once."""
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Settings besides name and split that the rows depend on; shards of a corpus keep them."""

    def __iter__(self) -> Iterator[Sample]:
        for part in self.parts:
            yield from self.read_part(part)


class CorpusError(ValueError):
    """A folder that is not the corpus its name says; tells the file looked for, what was found and what to write."""


class BadRow(ValueError):
    """One row that cannot be read; the reader turns it into a sample with `error` set."""


def in_parts(items: Sequence[T], to_sample: Callable[[T], Sample]) -> Corpus:
    """A corpus whose rows are described one by one; so many of them make a part."""
    return Corpus(sliced(items), _EachOf(to_sample))


def sliced(items: Sequence[T]) -> list[Sequence[T]]:
    """The items in their order, so many together as one task reads."""
    return [items[start : start + ROWS_PER_PART] for start in range(0, len(items), ROWS_PER_PART)]


def read_json(path: str) -> Any:
    """What a JSON file holds, read at once.

    Raises:
        CorpusError: it is no JSON.
    """
    try:
        return json.loads(storage.read_bytes(path))
    except ValueError as error:
        raise CorpusError(f"{path} is not JSON: {error}; fetch it again") from None


def read_picture(root: str, name: str) -> images.EncodedImage:
    """The bytes of the picture file ROOT/NAME, which decodes.

    Raises:
        BadRow: the file is missing or damaged.
    """
    return check_picture(read_bytes(root, name), name)


def check_picture(data: bytes | None, name: str) -> images.EncodedImage:
    """`data` if it decodes to its last byte, at the cheapest size; `name` begins the error.

    Raises:
        BadRow: it does not.
    """
    try:
        images.decode(data or b"", draft=8)
    except images.ImageError as error:
        raise BadRow(f"{name}: {error}") from None
    return images.EncodedImage(data or b"")


def decoded(root: str, name: str, decode: Callable[[bytes], np.ndarray] = images.decode) -> np.ndarray:
    """The pixels of the picture file ROOT/NAME.

    Raises:
        BadRow: the file is missing or damaged.
    """
    try:
        return decode(read_bytes(root, name))
    except images.ImageError as error:
        raise BadRow(f"{name}: {error}") from None


def read_bytes(root: str, name: str) -> bytes:
    """The bytes of the file ROOT/NAME.

    Raises:
        BadRow: there is none.
    """
    try:
        return storage.read_bytes(storage.join(root, name))
    except FileNotFoundError:
        raise BadRow(f"{name}: no such file") from None


def inside(name: str) -> str:
    """`name` if it leads to a file below the corpus's folder.

    Raises:
        BadRow: it leads elsewhere.
    """
    if not name or name.startswith("/") or ".." in name.split("/") or storage.is_remote(name):
        raise BadRow(f"found the path {name!r:.60}; write one relative to the corpus's folder")
    return name


def require(root: str, name: str, what: str) -> str:
    """The path of the file or folder ROOT/NAME.

    Raises:
        CorpusError: there is none; `what` tells what should lie there.
    """
    path = storage.join(root, name)
    if storage.exists(path):
        return path
    raise CorpusError(f"{path} is missing: {what}; found in {root}: {listing(root)}")


def listing(folder: str) -> str:
    """What lies in a folder, for an error message."""
    found = storage.names(folder)
    return ", ".join(found[:8]) + (", ..." if len(found) > 8 else "") if found else "nothing"


def require_split(corpus: str, split: str, known: Sequence[str]) -> None:
    """Refuse a split that the corpus does not have."""
    if split not in known:
        raise CorpusError(f"{corpus} has no split {split!r}; write {' or '.join(known)}")


@dataclasses.dataclass(frozen=True)
class _EachOf:
    to_sample: Callable[[Any], Sample]

    def __call__(self, part: Part) -> Iterator[Sample]:
        return map(self.to_sample, part)
