"""Remote folders are fetched once per node, again once they change, and removed where room is needed."""

import os
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest

from fireedit.platform import copies, storage

READ = """
import sys
from fireedit.platform import storage
with storage.reading_folder(sys.argv[1]) as folder:
    print(folder, folder.stat().st_ino, (folder / "below" / "one").read_text())
"""
KILLED = """
import os, signal, sys
from pathlib import Path
from pyarrow import fs
from fireedit.platform import storage
def copy_half(source, target, **systems):
    Path(target, "two").write_text("2")
    os.kill(os.getpid(), signal.SIGKILL)
fs.copy_files = copy_half
with storage.reading_folder(sys.argv[1]):
    pass
"""
Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FIREEDIT_SCRATCH", str(tmp_path / "scratch"))
    return tmp_path / "scratch"


@pytest.fixture
def remote(s3: str, tmp_path: Path) -> str:
    """A folder in a bucket."""
    return written(storage.join(s3, tmp_path.name))


def written(path: str, text: str = "1") -> str:
    storage.write_bytes(storage.join(path, "below", "one"), text.encode())
    storage.write_bytes(storage.join(path, "two"), b"2")
    return path


def copies_in(scratch: Path) -> list[Path]:
    return [path for path in (scratch / "copies").iterdir() if path.is_dir()]


def read(path: str) -> Path:
    with storage.reading_folder(path) as folder:
        assert sorted(path.name for path in folder.rglob("*")) == ["below", "one", "two"]
        return folder


def run(script: str, path: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", script, path], stdout=subprocess.PIPE, text=True)


def test_processes_of_a_node_share_one_copy(remote: str, scratch: Path) -> None:
    answers = {process.communicate()[0] for process in [run(READ, remote) for _ in range(3)]}
    (copy,) = copies_in(scratch)
    assert answers == {f"{copy} {copy.stat().st_ino} 1\n"}, "of one folder, which none of them has made anew"


def test_a_copy_stays_for_later_processes_and_changed_files_make_another(remote: str) -> None:
    first, times = read(remote), os.stat(read(remote) / "two")
    assert read(remote) == first and os.stat(first / "two") == times
    written(remote, "3")  # of equal size, in the same second
    with storage.reading_folder(remote) as folder:
        assert folder != first and (folder / "below" / "one").read_text() == "3"


def test_a_killed_fetch_is_not_taken_for_a_copy(remote: str, scratch: Path) -> None:
    process = run(KILLED, remote)
    process.communicate()
    assert process.returncode == -9 and (copies_in(scratch)[0] / "two").is_file()
    assert copies_in(scratch) != [read(remote)] == copies_in(scratch)


def test_a_failed_fetch_leaves_nothing(remote: str, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = copies.fs.copy_files

    def copy_and_change(*args: str, **systems: object) -> None:
        whole(*args, **systems)
        written(remote, "3")

    monkeypatch.setattr(copies.fs, "copy_files", copy_and_change)
    with pytest.raises(OSError, match="changed while it was fetched"), storage.reading_folder(remote):
        pass
    assert not copies_in(scratch)


def test_copies_that_no_process_holds_make_room_the_longest_unused_first(
    remote: str, s3: str, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, oldest, newer = (read(written(storage.join(remote, name))) for name in ("held", "oldest", "newer"))
    for age, folder in enumerate((newer, oldest, held)):
        os.utime(folder, (time.time() - age,) * 2)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10, 10, 0 if len(copies_in(scratch)) > 2 else 10))
    with storage.reading_folder(storage.join(remote, "held")):
        os.utime(held, (0, 0))
        last = read(written(storage.join(remote, "last")))
    assert {*copies_in(scratch)} == {held, newer, last}


def test_copies_unused_for_days_are_removed_at_the_next_fetch(remote: str, scratch: Path) -> None:
    old = read(written(storage.join(remote, "old")))
    os.utime(old, (time.time() - (copies.KEPT_DAYS + 1) * 24 * 3600,) * 2)
    assert copies_in(scratch) == [old]
    assert [read(written(storage.join(remote, "new")))] == copies_in(scratch)


def test_a_copy_that_cannot_fit_is_refused(remote: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1, 1, 1))
    with pytest.raises(OSError, match="room; set FIREEDIT_SCRATCH to a folder on a larger disk"):
        read(remote)


def test_a_missing_folder_in_a_bucket_is_an_error(s3: str) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"), storage.reading_folder(storage.join(s3, "nowhere")):
        pass


def test_scratch_is_this_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert copies.scratch() == tmp_path / "scratch"
    monkeypatch.delenv("FIREEDIT_SCRATCH")
    monkeypatch.setattr(copies.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = copies.scratch()
    assert folder.parent == tmp_path and folder.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    (tmp_path / "fireedit-12345").mkdir()
    with pytest.raises(PermissionError, match="another user"):
        copies.scratch()
