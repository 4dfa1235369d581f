"""What all corpus readers share: their errors, reading a picture, and the lazy walk from a file list to rows."""

from collections.abc import Callable, Sequence
from typing import Any

import ray.data

from fireedit.platform import images, storage

MAP_CPUS = 0.25
"""CPUs that one reading task claims: it mostly waits for files, and two cores must also feed a trainer."""

ROWS_PER_BLOCK = 128
"""Files that one reading task opens: at 500 kB a row its block stays near 64 MB."""


class CorpusError(ValueError):
    """A folder that is not the corpus its name says; tells the file looked for, what was found and what to write."""


class BadRow(ValueError):
    """One row that cannot be read; the reader turns it into a sample with `error` set."""


def lazy_rows(items: Sequence[dict[str, Any]], to_row: Callable[[dict[str, Any]], dict[str, Any]]) -> ray.data.Dataset:
    """Map a list of small descriptions (file names) to rows with images, only as fast as they are consumed."""
    blocks = -(-len(items) // ROWS_PER_BLOCK)
    return ray.data.from_items(list(items), override_num_blocks=blocks).map(to_row, num_cpus=MAP_CPUS)


def read_picture(root: str, name: str) -> bytes:
    """The bytes of the picture file ROOT/NAME, which decodes.

    Raises:
        BadRow: the file is missing or damaged.
    """
    return check_picture(read_bytes(root, name), name)


def check_picture(data: bytes | None, name: str) -> bytes:
    """`data` if it decodes to its last byte, at the cheapest size; `name` begins the error.

    Raises:
        BadRow: it does not.
    """
    try:
        images.decode(data or b"", draft=8)
    except images.ImageError as error:
        raise BadRow(f"{name}: {error}") from None
    return data or b""


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
