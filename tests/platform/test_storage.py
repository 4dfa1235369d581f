"""Files and folders are written whole or not at all."""

from pathlib import Path
from typing import Any

import pytest

from fireedit.platform import storage


def test_home_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIREEDIT_HOME", "s3://bucket/fireedit")
    assert storage.home() == "s3://bucket/fireedit"
    monkeypatch.delenv("FIREEDIT_HOME")
    assert storage.home() == str(Path.home() / "fireedit")


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty folder, on disk and in a bucket."""
    if request.param == "local":
        return str(tmp_path)
    return storage.join(request.getfixturevalue("s3"), tmp_path.name)


def test_written_bytes_are_read_back(root: str) -> None:
    path = storage.join(root, "a", "refs(unc) 100%.bin")
    storage.write_bytes(path, b"one")
    storage.write_bytes(path, b"two")
    assert storage.read_bytes(path) == b"two"
    assert storage.names(storage.join(root, "a")) == ["refs(unc) 100%.bin"], "no draft is left"
    assert storage.exists(path) and not storage.exists(storage.join(root, "x"))
    assert storage.names(storage.join(root, "nowhere")) == []
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(storage.join(root, "x"))


def test_a_link_to_nowhere_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "lost").symlink_to(tmp_path / "nowhere")
    assert storage.names(str(tmp_path)) == ["lost"] and storage.exists(str(tmp_path / "lost"))
    with pytest.raises(FileNotFoundError, match="lost"):
        storage.read_bytes(str(tmp_path / "lost"))


def test_names_are_joined_before_the_options_of_an_address() -> None:
    assert storage.join("s3://b/k?scheme=http", "runs", "first") == "s3://b/k/runs/first?scheme=http"
    assert storage.join("/a/", "b") == "/a/b"


def test_a_folder_appears_only_when_it_is_complete(root: str) -> None:
    path = storage.join(root, "weights")
    with storage.writing_folder(path, last="index") as draft:
        (draft / "index").write_text("1")
        assert not storage.exists(path)
    assert storage.names(path) == ["index"]


def test_a_failed_folder_leaves_the_old_one(root: str) -> None:
    path = storage.join(root, "weights")
    with storage.writing_folder(path, last="index") as draft:
        (draft / "index").write_text("old")
    with pytest.raises(RuntimeError), storage.writing_folder(path, last="index") as draft:
        (draft / "index").write_text("new")
        raise RuntimeError
    assert storage.read_bytes(storage.join(path, "index")) == b"old"
    assert storage.names(root) == ["weights"]


@pytest.mark.parametrize("where", [".", "file", "weights"])
def test_what_was_not_written_so_is_left_as_it_is(root: str, where: str) -> None:
    storage.write_bytes(storage.join(root, "weights", "file"), b"mine")
    storage.write_bytes(storage.join(root, "file"), b"mine")
    path = root if where == "." else storage.join(root, where)
    with pytest.raises(FileExistsError, match="write a folder"), storage.writing_folder(path, last="index"):
        pytest.fail("found out after the work")
    assert storage.read_bytes(storage.join(root, "weights", "file")) == storage.read_bytes(storage.join(root, "file"))


def test_a_bucket_a_disk_and_a_folder_without_rights_are_refused(s3: str, tmp_path: Path) -> None:
    nowhere = s3.replace("s3://fireedit", "s3://nowhere/weights")
    for path, found in ((s3, "whole bucket"), ("/", "mount point"), ("/proc", "mount point"), (nowhere, "nowhere")):
        with pytest.raises(OSError, match=found), storage.writing_folder(path, last="index"):
            pytest.fail("found out after the work")


def test_an_interrupted_upload_is_begun_again(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = storage.join(s3, "interrupted")
    for each in ("1", "2"):
        with storage.writing_folder(path, last="index") as draft:
            (draft / "part").mkdir()
            (draft / "part" / each).write_text(each)
            (draft / "index").write_text(each)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError), storage.writing_folder(path, "index") as draft:
        patch.setattr(storage.fs, "copy_files", lambda *_, **__: (_ for _ in ()).throw(RuntimeError))
        (draft / "index").write_text("3")
    assert storage.names(path) == [storage.UNFINISHED] and storage.contents(path) == []
    storage.write_bytes(storage.join(path, "part", "x"), b"")
    with storage.writing_folder(path, last="index") as draft:
        (draft / "index").write_text("4")
    assert storage.names(path) == ["index"]


def test_a_folder_that_is_partly_replaced_does_not_count_as_whole(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = storage.join(s3, "partly")
    for name in ("index", "unet/a", "vae/b"):
        storage.write_bytes(storage.join(path, name), b"old")
    find, (files, _) = storage.filesystem, storage.filesystem(path)

    class Failing:
        def delete_dir(self, inner: str) -> None:
            if inner.endswith("vae"):
                raise RuntimeError
            files.delete_dir(inner)

        def __getattr__(self, name: str) -> Any:
            return getattr(files, name)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError), storage.writing_folder(path, "index") as draft:
        (draft / "index").write_text("new")
        patch.setattr(storage, "filesystem", lambda path: (Failing(), find(path)[1]))
    assert "vae" in storage.names(path) and "index" not in storage.names(path) and storage.contents(path) == []


@pytest.mark.parametrize("error", [OSError("no right"), KeyboardInterrupt()])
def test_the_old_folder_stays_where_the_new_one_cannot_be_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def move(source: Path, target: Path) -> Path:
        if source.name == "draft":
            raise error
        return rename(source, target)

    rename = Path.rename
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "index").write_text("old")
    monkeypatch.setattr(Path, "rename", move)
    with pytest.raises(type(error)), storage.writing_folder(str(tmp_path / "weights"), "index") as draft:
        (draft / "index").write_text("new")
    assert (tmp_path / "weights" / "index").read_text() == "old" and storage.names(str(tmp_path)) == ["weights"]


def test_a_folder_is_begun_again_by_the_one_who_began_it(tmp_path: Path) -> None:
    for _ in range(2):
        folder = storage.begin_folder(str(tmp_path / "out"), ".mine")
        assert storage.names(str(folder)) == [".mine"]
        (folder / "file").touch()
    for path, mark in ((tmp_path, ".mine"), (folder, ".yours"), (Path("/"), ".mine")):
        with pytest.raises(OSError, match="write"):
            storage.begin_folder(str(path), mark)
    assert (folder / "file").exists()


def test_a_link_keeps_pointing_to_the_folder(tmp_path: Path) -> None:
    (tmp_path / "disk" / "weights").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "weights")
    for text in ("1", "2"):
        with storage.writing_folder(str(tmp_path / "link"), last="index") as draft:
            (draft / "index").write_text(text)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "disk/weights/index").read_text() == "2"
    assert storage.names(str(tmp_path / "disk")) == ["weights"], "neither a draft nor the old one is left"


def test_a_local_folder_is_read_in_place(tmp_path: Path) -> None:
    with storage.reading_folder(str(tmp_path)) as folder:
        assert folder == tmp_path
    with pytest.raises(FileNotFoundError, match="no such folder"), storage.reading_folder(str(tmp_path / "x")):
        pass


def test_a_written_file_appears_whole_or_not_at_all(root: str) -> None:
    path = storage.join(root, "a", "shard.bin")
    with storage.writing_file(path) as draft:
        draft.write_bytes(b"one")
        assert not storage.exists(path)
    assert storage.read_bytes(path) == b"one"
    with pytest.raises(RuntimeError), storage.writing_file(path) as draft:
        draft.write_bytes(b"two")
        raise RuntimeError
    assert storage.read_bytes(path) == b"one"
    assert storage.names(storage.join(root, "a")) == ["shard.bin"], "no draft is left"


def test_removing_twice_is_no_error(root: str) -> None:
    kept, path = storage.join(root, "kept"), storage.join(root, "a", "b", "file")
    for address in (kept, path):
        storage.write_bytes(address, b"x")
    for _ in range(2):
        storage.remove_file(path)
        assert not storage.exists(path)
    storage.write_bytes(path, b"x")
    storage.remove_file(storage.join(root, "a"))
    assert storage.exists(path), "a folder is no file"
    for _ in range(2):
        storage.remove_folder(storage.join(root, "a"))
        assert not storage.exists(path) and storage.names(root) == ["kept"]
