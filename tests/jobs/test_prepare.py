import json
from pathlib import Path

import pytest

from fireedit.jobs import prepare
from fireedit.platform.data.catalog import CORPORA
from fireedit.platform.data.corpora import cc12m
from fireedit.platform.data.scenes import world


def run(*words: str) -> int:
    return prepare.main(["scenes", *words])


def files(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_every_corpus_is_written_where_their_readers_look(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--out", str(tmp_path), "--rows", "6", "--size", "32") == 0
    said = capsys.readouterr()
    report = json.loads(said.out.splitlines()[-1])
    assert report["rows"] == dict.fromkeys(prepare.WRITERS, 6)
    assert report["out"] == str(tmp_path) and report["seconds"] >= 0
    assert report["bytes"] == sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert "cocostuff" in said.err and "6/6" in said.err
    assert set(prepare.WRITERS) <= set(CORPORA)
    assert len(list(cc12m.read_chunk(str(tmp_path / "cc12m" / "cc12m.tsv"), 0))) == 6


def test_what_is_complete_is_kept_and_what_differs_is_redone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--out", str(tmp_path), "--size", "32", "--corpora", "cocostuff"]
    assert run(*words, "--rows", "5") == 0
    before = files(tmp_path)
    assert run(*words, "--rows", "5") == 0
    assert files(tmp_path) == before and "with these settings, kept" in capsys.readouterr().err
    assert run(*words, "--rows", "3") == 0
    assert len(list((tmp_path / "cocostuff" / "images" / "train2017").iterdir())) == 3


def test_a_folder_of_somebody_else_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cc12m").mkdir()
    (tmp_path / "cc12m" / "cc12m.tsv").write_text("precious")
    assert run("--out", str(tmp_path), "--rows", "2", "--corpora", "cc12m") == 1
    assert "was not written by this job; move it away or choose another --out" in capsys.readouterr().err
    assert (tmp_path / "cc12m" / "cc12m.tsv").read_text() == "precious"


def test_a_run_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_off(folder: Path, *_: object) -> None:
        (folder / "half").touch()
        raise KeyboardInterrupt

    monkeypatch.setitem(prepare.WRITERS, "cc12m", break_off)
    with pytest.raises(KeyboardInterrupt):
        run("--out", str(tmp_path), "--rows", "2", "--corpora", "cc12m")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--corpora", "imagenet"], "no scenes are written as 'imagenet'; write --corpora with cc12m,"),
        (["--rows", "10", "--seed", "10000000"], "leaves the training range; write a seed of 0 to 4999999"),
        (["--seed", "-1"], "leaves the training range"),
    ],
)
def test_wrong_arguments_are_told(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--out", str(tmp_path), *words) == 1
    assert told in capsys.readouterr().err


def test_no_two_corpora_or_seeds_draw_the_same_scene() -> None:
    ranges = [prepare.scene_seeds(name, 100, seed) for name in prepare.WRITERS for seed in (0, 1, 499_999)]
    drawn = [seed for block in ranges for seed in block]
    assert len(set(drawn)) == len(drawn)
    assert all(block.start in world.TRAIN_SEEDS and block[-1] in world.TRAIN_SEEDS for block in ranges)


def test_the_default_folder_follows_fireedit_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FIREEDIT_HOME", str(tmp_path))
    assert run("--rows", "2", "--corpora", "cc12m") == 0
    assert (tmp_path / "corpora" / "cc12m" / "prepared.json").exists()
