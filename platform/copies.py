"""Copies of remote folders on a node's own disk, each fetched once and shared by the node's processes.

A copy is a folder named by a digest of the address and of its files' sizes and versions, so that changed files make
another copy. Beside it is a file to lock: exclusively by the process that fetches or removes the copy, jointly by those
that read it. A folder gets the name of a copy only once it is whole.
"""

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from pyarrow import fs

from fireedit.platform.console import say

KEPT_DAYS = 7
"""Days after its last use that a copy is kept, if the disk has room for the others."""
DRAFT = ".part"
"""Suffix of a folder that is being fetched or removed, or was, by a process that was killed."""
Contents = list[tuple[str, int, str]]
"""Path, size in bytes and version of every file in a folder."""


def scratch() -> Path:
    """Make and return the folder for files of this node: $FIREEDIT_SCRATCH, else one of this user in the temporary one.

    Raises:
        PermissionError: the folder in the temporary one is another user's.
    """
    chosen = os.environ.get("FIREEDIT_SCRATCH")
    folder = Path(chosen or Path(tempfile.gettempdir(), f"fireedit-{os.getuid()}"))
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not chosen and folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user; set FIREEDIT_SCRATCH to a folder of your own")
    return folder


@contextmanager
def held_copy(address: str, files: fs.FileSystem, inner: str) -> Iterator[Path]:
    """Give the node's copy of a remote folder, fetched if there is none; it stays at least to the end of the block.

    Args:
        address: of the folder, which the copy and messages are named by.
        inner: its path in the file system `files`.
    Raises:
        FileNotFoundError: the folder is not there.
        OSError: the disk has no room for it, or it was changed while it was fetched.
    """
    contents = _contents(files, inner)
    root = scratch() / "copies"
    root.mkdir(exist_ok=True)
    copy = root / hashlib.blake2b(repr((address, contents)).encode(), digest_size=16).hexdigest()
    with _lock_file(copy).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        while not copy.is_dir():
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not copy.is_dir():
                _fetch(address, files, inner, contents, copy)
            fcntl.flock(lock, fcntl.LOCK_SH)  # lets go in between, so that another process may remove the copy
        os.utime(copy)
        yield copy


def _contents(files: fs.FileSystem, inner: str) -> Contents:
    infos = files.get_file_info(fs.FileSelector(inner, recursive=True))
    present = sorted((info for info in infos if info.is_file), key=lambda info: info.path)
    with ThreadPoolExecutor() as pool:  # each version is a request
        versions = pool.map(lambda info: _version(files, info), present)
        return [(info.path, info.size, version) for info, version in zip(present, versions, strict=True)]


def _version(files: fs.FileSystem, info: fs.FileInfo) -> str:
    """Return the hash that a bucket keeps of a file, else the time of its last change, which S3 tells in seconds."""
    with files.open_input_stream(info.path) as stream:
        return str((stream.metadata() or {}).get("ETag", info.mtime_ns))


def _fetch(address: str, files: fs.FileSystem, inner: str, contents: Contents, copy: Path) -> None:
    size, draft = sum(size for _, size, _ in contents), copy.with_suffix(DRAFT)
    _make_room(copy.parent, size, address)
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    begun = time.monotonic()
    say(f"fetching {address}, {size / 1e9:.2f} GB, once for this node")
    try:
        fs.copy_files(inner, str(draft), source_filesystem=files, destination_filesystem=fs.LocalFileSystem())
        if _contents(files, inner) != contents:
            raise OSError(f"{address} was changed while it was fetched; start again when it is complete")
        draft.rename(copy)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    say(f"fetched {address} in {time.monotonic() - begun:.0f} s")


def _make_room(root: Path, size: int, address: str) -> None:
    """Remove copies that no process holds: remains, those past KEPT_DAYS, and the longest unused until `size` fits."""
    with (root / "room.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for last_use, folder in sorted((_last_use(path), path) for path in root.iterdir() if path.is_dir()):
            past = time.time() - last_use > KEPT_DAYS * 24 * 3600
            if folder.suffix == DRAFT or past or shutil.disk_usage(root).free < size:
                _remove_unheld(folder)
    if (free := shutil.disk_usage(root).free) < size:
        raise OSError(
            f"{address} has {size / 1e9:.2f} GB, the disk of {root} {free / 1e9:.2f} GB of room; set FIREEDIT_SCRATCH "
            "to a folder on a larger disk"
        )


def _last_use(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:  # another process has just fetched it, and renamed it
        return time.time()


def _remove_unheld(folder: Path) -> None:
    with _lock_file(folder).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        if folder.is_dir():
            draft = folder.rename(folder.with_suffix(DRAFT))  # if this process is killed, no half copy is left
            shutil.rmtree(draft)


def _lock_file(folder: Path) -> Path:
    return folder.with_suffix(".lock")
