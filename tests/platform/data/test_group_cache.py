"""Tables are fetched once for all processes of a node, within a limit, and stay readable when their files are gone."""

import multiprocessing
import os
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pytest

from fireedit.platform.data.group_cache import GroupCache, scratch_folder

KILOBYTE = 1000


def table_of(number: int) -> pa.Table:
    return pa.table({"picture": [bytes([number]) * KILOBYTE], "texts": [["a", "b"] * number]})


def missing() -> pa.Table:
    raise FileNotFoundError("fetched again")


@pytest.fixture
def cache(tmp_path: Path) -> GroupCache:
    return GroupCache(tmp_path, limit=4 * KILOBYTE)


def test_a_table_is_fetched_once_and_read_as_it_was(cache: GroupCache, tmp_path: Path) -> None:
    assert cache.read("one", lambda: table_of(1)) == table_of(1)
    assert cache.read("one", missing) == table_of(1)
    assert GroupCache(tmp_path, limit=4 * KILOBYTE).read("one", missing) == table_of(1)


def test_tables_that_were_used_longest_ago_are_deleted(cache: GroupCache, tmp_path: Path) -> None:
    tables = []
    for number in range(6):
        tables.append(cache.read(f"{number}", lambda number=number: table_of(number)))
        cache.touch("0")
        time.sleep(0.01)  # times of files are those of the kernel's clock ticks
    files = sorted(path.name for path in tmp_path.glob("*.arrow"))
    assert files[0] == "0.arrow" and files[-1] == "5.arrow"
    assert sum(path.stat().st_size for path in tmp_path.glob("*.arrow")) <= 4 * KILOBYTE
    assert tables == [table_of(number) for number in range(6)], "they are still mapped"
    with pytest.raises(FileNotFoundError, match="fetched again"):
        cache.read("1", missing)
    cache.touch("1")


def test_a_table_over_the_limit_is_read_all_the_same(tmp_path: Path) -> None:
    cache = GroupCache(tmp_path, limit=1)
    assert cache.read("one", lambda: table_of(1)) == table_of(1)
    assert not list(tmp_path.glob("*.arrow"))


def test_processes_that_need_a_table_at_the_same_time_fetch_it_once(tmp_path: Path) -> None:
    forked = multiprocessing.get_context("forkserver")
    processes = [forked.Process(target=read_slowly, args=(tmp_path, number)) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(list(tmp_path.glob("*.log"))) == 1


def read_slowly(folder: Path, number: int) -> None:
    def fetch() -> pa.Table:
        (folder / f"{number}.log").touch()
        time.sleep(1)
        return table_of(7)

    assert GroupCache(folder, limit=9 * KILOBYTE).read("seven", fetch) == table_of(7)


def test_a_process_that_is_killed_while_it_fetches_leaves_the_table_to_others(tmp_path: Path) -> None:
    process = multiprocessing.get_context("forkserver").Process(target=die_fetching, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 3
    assert GroupCache(tmp_path, limit=9 * KILOBYTE).read("one", lambda: table_of(1)) == table_of(1)


def die_fetching(folder: Path) -> None:
    GroupCache(folder, limit=9 * KILOBYTE).read("one", lambda: os._exit(3))


def test_a_failed_fetch_is_tried_again(cache: GroupCache) -> None:
    with pytest.raises(FileNotFoundError, match="fetched again"):
        cache.read("one", missing)
    assert cache.read("one", lambda: table_of(1)) == table_of(1)


def test_the_folder_of_a_user_is_no_one_elses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = scratch_folder()
    assert folder.is_relative_to(tmp_path) and folder.parent.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    (tmp_path / "fireedit-12345").mkdir()
    with pytest.raises(PermissionError, match="belongs to another user; set TMPDIR"):
        scratch_folder()
