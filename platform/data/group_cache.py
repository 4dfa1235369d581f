"""Row groups on a node's own disk: fetched once for all its processes, by the first that needs them, then mapped."""

import contextlib
import fcntl
import os
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

LOCKS = 64
"""Tables that the processes of a node can fetch at the same time."""
SUFFIX = ".arrow"


def scratch_folder() -> Path:
    """Make this user's folder for row groups under $TMPDIR, or /tmp.

    Raises:
        PermissionError: another user has made it.
    """
    folder = Path(tempfile.gettempdir()) / f"fireedit-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user; set TMPDIR to a folder of your own")
    return folder / "row-groups"


class GroupCache:
    """Tables in the files of a folder, which the processes of a node share and none of them has to clean up.

    Args:
        folder: on a disk of this node; it is made if it is missing.
        limit: bytes of all tables; those that were used longest ago are deleted.
    """

    def __init__(self, folder: Path, limit: int):
        self._folder, self._limit = folder, limit
        folder.mkdir(parents=True, exist_ok=True)

    def read(self, name: str, fetch: Callable[[], pa.Table]) -> pa.Table:
        """Map the table of this name into memory; `fetch` makes it if it is not there.

        Another process that needs it meanwhile waits. A table stays mapped after its file has been deleted.
        """
        path, lock = self._path(name), zlib.crc32(name.encode()) % LOCKS
        with contextlib.suppress(FileNotFoundError):
            return _mapped(path)
        with open(self._folder / f"{lock}.lock", "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed, also by the death of this process
            with contextlib.suppress(FileNotFoundError):
                return _mapped(path)
            draft = self._folder / f"{lock}.draft"
            _write(fetch(), draft)
            table = _mapped(draft)
            draft.rename(path)
        self._delete_oldest()
        return table

    def touch(self, name: str) -> None:
        """Mark a table as used now, if it is still there."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(self._path(name))

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}{SUFFIX}"

    def _delete_oldest(self) -> None:
        """Delete tables until the others are within the limit; other processes may do so at the same time."""
        tables = []
        for entry in os.scandir(self._folder):
            with contextlib.suppress(FileNotFoundError):
                if entry.name.endswith(SUFFIX):
                    tables.append((entry.stat().st_mtime_ns, entry.stat().st_size, entry.path))
        excess = sum(size for _, size, _ in tables) - self._limit
        for _, size, path in sorted(tables):
            if excess <= 0:
                return
            Path(path).unlink(missing_ok=True)
            excess -= size


def _write(table: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def _mapped(path: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
