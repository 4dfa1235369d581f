"""Files and folders on a local disk or in an S3 bucket, through one set of functions."""

import functools
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from pyarrow import fs

from fireedit.platform import copies

UNFINISHED, PROBE = ".unfinished", ".probe"
"""Objects that mark a remote folder in the middle of its upload, and that are written to see if it can be."""


def home() -> str:
    """Default folder of corpora, runs and weights: $FIREEDIT_HOME, else ~/fireedit.

    The working directory will not do: a submitted Ray job runs in an unpacked copy that is deleted.
    """
    return os.environ.get("FIREEDIT_HOME") or str(Path.home() / "fireedit")


def join(folder: str, *names: str) -> str:
    """Join names to `folder`, which may be an `s3://` address with options."""
    address, mark, options = folder.partition("?") if is_remote(folder) else (folder, "", "")
    return "/".join([address.rstrip("/"), *names]) + mark + options


def is_remote(path: str) -> bool:
    return "://" in path


def absolute(path: str) -> str:
    """Make a path absolute; Ray's workers have other working directories than the driver."""
    return path if is_remote(path) else str(Path(path).expanduser().absolute())


def filesystem(path: str) -> tuple[fs.FileSystem, str]:
    """Find the file system of a path, and the path within it.

    `s3://bucket/key?endpoint_override=host:port&scheme=http` addresses a private server, such as MinIO. Keys are not
    decoded.
    """
    if not is_remote(path):
        return fs.LocalFileSystem(), absolute(path)
    parts = urlsplit(path)
    if parts.scheme != "s3":
        return fs.FileSystem.from_uri(path)
    return _bucket(f"s3://{parts.netloc}?{parts.query}"), parts.netloc + parts.path


@functools.lru_cache(maxsize=32)
def _bucket(address: str) -> fs.FileSystem:
    """Make the client of a bucket once in a process, as each looks up the bucket's region."""
    return fs.FileSystem.from_uri(address)[0]


def exists(path: str) -> bool:
    """Check for a file or folder; a link to nowhere is there too, so that opening it is an error."""
    return os.path.islink(absolute(path)) or info(path).type != fs.FileType.NotFound


def info(path: str) -> fs.FileInfo:
    """Look up the type, the size in bytes and the time of a file or folder."""
    files, inner = filesystem(path)
    return files.get_file_info(inner)


def names(folder: str) -> list[str]:
    """List the names directly in `folder`, sorted; none if there is no such folder."""
    files, inner = filesystem(folder)
    if isinstance(files, fs.LocalFileSystem):  # pyarrow's listing drops links to nowhere in silence
        return sorted(os.listdir(inner)) if os.path.isdir(inner) else []
    return sorted(info.base_name for info in files.get_file_info(fs.FileSelector(inner, allow_not_found=True)))


def read_bytes(path: str) -> bytes:
    files, inner = filesystem(path)
    with files.open_input_stream(inner) as stream:
        return stream.read()


def write_bytes(path: str, data: bytes) -> None:
    """Write a file atomically: readers see all of it or none."""
    files, inner = filesystem(path)
    if is_remote(path):  # an object appears only once its upload is complete
        with files.open_output_stream(inner) as stream:
            stream.write(data)
        return
    target = Path(inner)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    draft.write_bytes(data)
    draft.replace(target)


@contextmanager
def writing_file(path: str) -> Iterator[Path]:
    """Give a local path to write one file to, which appears as `path` at the end of the block, whole or not at all."""
    target = Path(absolute(path))
    parent = None if is_remote(path) else target.parent
    if parent is not None:
        parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=parent) as folder:
        draft = Path(folder) / "file"
        yield draft
        if parent is not None:
            draft.replace(target)
        else:
            files, inner = filesystem(path)
            fs.copy_files(str(draft), inner, source_filesystem=fs.LocalFileSystem(), destination_filesystem=files)


def remove_file(path: str) -> None:
    """Remove a file; one that is not there is no error."""
    files, inner = filesystem(path)
    if files.get_file_info(inner).type == fs.FileType.File:
        files.delete_file(inner)


def remove_folder(path: str) -> None:
    """Remove a folder with all its files; one that is not there is no error."""
    files, inner = filesystem(path)
    if files.get_file_info(inner).type != fs.FileType.NotFound:
        files.delete_dir(inner)


@contextmanager
def writing_folder(path: str, last: str) -> Iterator[Path]:
    """Give a local folder to fill, which becomes `path` at the end of the block; a failed block leaves nothing.

    It takes the place of an earlier one of its kind only: a folder that is empty, or that holds `last`. A remote
    folder's draft is in the folder for temporary files, $TMPDIR; a local one's is beside `path`, its links followed.

    Args:
        last: file that marks the folder complete; it is copied last where a folder cannot be renamed.
    Raises:
        OSError: `path` holds other files, is a whole bucket or disk, or has no right to write and, in a bucket, to
            delete; before the block begins.
    """
    target = path if is_remote(path) else str(Path(path).expanduser().resolve())
    require_replaceable(target, last)
    if is_remote(path):
        _probe(path)
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
            _upload(Path(folder), path, last)
        return
    local = Path(target)
    local.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{local.name}.", dir=local.parent) as folder:
        draft, old = Path(folder) / "draft", Path(folder) / "old"
        draft.mkdir()
        yield draft
        require_replaceable(target, last)
        try:
            if local.exists():
                local.rename(old)
            draft.rename(local)
        except BaseException:
            if old.exists() and not local.exists():
                old.rename(local)
            raise


def begin_folder(path: str, mark: str) -> Path:
    """Make an empty local folder to work in, in place of an earlier one only: one that is empty or holds `mark`.

    Args:
        mark: file that is written first.
    Raises:
        OSError: `path` holds other files, or cannot be replaced.
    """
    target = Path(path).expanduser().resolve()
    require_replaceable(str(target), mark)
    target.mkdir(parents=True, exist_ok=True)
    (target / mark).touch()
    for child in target.iterdir():
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        elif child.name != mark:
            child.unlink()
    return target


def contents(path: str) -> list[str]:
    """List the names in a folder, sorted; none in one whose upload was interrupted."""
    present = [name for name in names(path) if name != PROBE]
    return [] if UNFINISHED in present else present


def require_replaceable(path: str, last: str) -> None:
    """Raise FileExistsError or OSError unless `writing_folder` may replace a folder at `path`."""
    found = info(path)
    if is_remote(path) and "/" not in filesystem(path)[1].strip("/"):
        raise OSError(f"{path} is a whole bucket; write a folder in it, such as {join(path, 'weights')}")
    if not is_remote(path) and (path == "/" or path in {each.mountpoint for each in psutil.disk_partitions(all=True)}):
        raise OSError(f"{path} is a mount point, which no folder can replace; write {join(path, 'weights')} or another")
    if found.type == fs.FileType.File:
        raise FileExistsError(f"{path} is a file; write a folder that is new, or that was written so before")
    present = contents(path)
    if present and last not in present:
        such = f"{present[0]} and {len(present) - 1} more" if len(present) > 1 else present[0]
        raise FileExistsError(
            f"{path} holds {such}, but no {last}, and is left as it is; write a folder that is new or empty, or remove "
            "this one"
        )


def _probe(path: str) -> None:
    """Write and remove a small object, so that a folder that cannot be written fails before any work."""
    files, inner = filesystem(path)
    absent = files.get_file_info(inner).type == fs.FileType.NotFound
    write_bytes(join(path, PROBE), b"")
    remove_file(join(path, PROBE))
    if absent and not names(path):
        remove_folder(path)


def _upload(folder: Path, path: str, last: str) -> None:
    """Replace the objects of a remote folder, under a mark that lets an interrupted upload be begun again."""
    files, inner = filesystem(path)
    final = (folder / last).read_bytes()
    (folder / last).unlink()
    write_bytes(join(path, UNFINISHED), b"")
    remove_file(join(path, last))  # readers take what it marks for whole
    for each in files.get_file_info(fs.FileSelector(inner)):
        if each.type == fs.FileType.Directory:
            files.delete_dir(each.path)
        elif each.base_name != UNFINISHED:
            files.delete_file(each.path)
    fs.copy_files(str(folder), inner, source_filesystem=fs.LocalFileSystem(), destination_filesystem=files)
    write_bytes(join(path, last), final)
    remove_file(join(path, UNFINISHED))


@contextmanager
def reading_folder(path: str) -> Iterator[Path]:
    """Give the folder `path` as a local one, to read only; what is opened or mapped in the block stays so after it.

    A local folder is used in place. A remote one is fetched once per node, by the first process that asks for it while
    others wait, and kept for later ones; see copies.py.

    Raises:
        FileNotFoundError: `path` is no folder.
        OSError: the node's disk has no room for a remote one.
    """
    if is_remote(path):
        with copies.held_copy(path, *filesystem(path)) as folder:
            yield folder
        return
    if not Path(absolute(path)).is_dir():
        raise FileNotFoundError(f"{path}: no such folder")
    yield Path(absolute(path))
