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

from pyarrow import fs

from fireedit.platform import copies


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

    Args:
        last: file that marks the folder complete; it is copied last where a folder cannot be renamed.
    """
    if not is_remote(path):
        target = Path(path).expanduser().absolute()
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
            draft = Path(folder) / target.name
            draft.mkdir()
            yield draft
            if target.exists():
                shutil.rmtree(target)
            draft.rename(target)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
        final = (Path(folder) / last).read_bytes()
        (Path(folder) / last).unlink()
        files, inner = filesystem(path)
        files.delete_dir_contents(inner, missing_dir_ok=True)
        fs.copy_files(folder, inner, source_filesystem=fs.LocalFileSystem(), destination_filesystem=files)
        write_bytes(join(path, last), final)


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
