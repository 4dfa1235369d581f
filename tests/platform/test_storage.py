"""Files and folders are there whole or not at all."""

from pathlib import Path

import pytest

from fireedit.platform import storage


def test_home_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIREEDIT_HOME", "s3://bucket/fireedit")
    assert storage.home() == "s3://bucket/fireedit"
    monkeypatch.delenv("FIREEDIT_HOME")
    assert storage.home() == str(Path.home() / "fireedit")


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = storage.join(str(tmp_path), "a", "b.bin")
    storage.write_bytes(path, b"one")
    storage.write_bytes(path, b"two")
    assert storage.read_bytes(path) == b"two"
    assert storage.names(str(tmp_path / "a")) == ["b.bin"], "no draft is left beside it"
    assert storage.exists(path) and not storage.exists(path + "x")
    assert storage.names(str(tmp_path / "nowhere")) == []


def test_a_path_is_joined_before_the_options_of_an_address() -> None:
    assert storage.join("s3://b/k?scheme=http", "runs", "one") == "s3://b/k/runs/one?scheme=http"
    assert storage.join("/a/", "b") == "/a/b"


def test_a_path_is_the_same_from_every_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("runs") == str(tmp_path / "runs")
    assert storage.absolute("s3://bucket/runs") == "s3://bucket/runs"


def test_a_folder_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    path = str(tmp_path / "weights")
    with storage.writing_folder(path, last="index") as draft:
        (draft / "index").write_text("1")
        assert not storage.exists(path)
    assert storage.names(path) == ["index"]


def test_a_folder_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    path = str(tmp_path / "weights")
    with storage.writing_folder(path, last="index") as draft:
        (draft / "index").write_text("old")
    with pytest.raises(RuntimeError), storage.writing_folder(path, last="index") as draft:
        (draft / "index").write_text("new")
        raise RuntimeError
    assert storage.read_bytes(storage.join(path, "index")) == b"old"
    assert storage.names(str(tmp_path)) == ["weights"]


def test_a_local_folder_is_read_where_it_lies(tmp_path: Path) -> None:
    with storage.reading_folder(str(tmp_path)) as folder:
        assert folder == tmp_path
    with pytest.raises(FileNotFoundError, match="no such folder"), storage.reading_folder(str(tmp_path / "x")):
        pass
