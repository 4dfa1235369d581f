import json
from pathlib import Path

import pytest

from fireedit.jobs import prepare
from fireedit.platform.data import catalog
from fireedit.platform.data.corpora import cc12m


def write_scenes(*words: str) -> int:
    return prepare.main(["scenes", *words])


def test_every_corpus_is_written_where_the_readers_look(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert write_scenes("--out", str(tmp_path), "--rows", "6", "--size", "32") == 0
    printed = capsys.readouterr()
    report = json.loads(printed.out.splitlines()[-1])
    assert report["rows"] == dict.fromkeys(catalog.TRAINING_CORPORA, 6)
    assert report["out"] == str(tmp_path) and report["seconds"] >= 0
    assert report["bytes"] == sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert "cocostuff" in printed.err and "6/6" in printed.err
    assert len(list(cc12m.read_chunk(str(tmp_path / "cc12m" / "cc12m.tsv"), 0))) == 6


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--corpora", "imagenet"], "no scenes are written as 'imagenet'; write --corpora with cc12m,"),
        (["--rows", "10", "--seed", "10000000"], "leaves the corpus's range; write a seed of 0 to 4999999"),
        (["--seed", "-1"], "leaves the corpus's range"),
    ],
)
def test_wrong_arguments_of_scenes_are_errors(
    words: list[str], error: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert write_scenes("--out", str(tmp_path), *words) == 1
    assert error in capsys.readouterr().err


@pytest.mark.ray
@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--corpora", "imagenet"], "no corpus is called 'imagenet'"),
        (["--corpora", "cc12m", "--source", "/nowhere"], "neither"),
        (["--corpora", "cc12m", "--encode", "latents"], "--encode needs --weights FOLDER"),
        (["--corpora", "cc12m", "--encode", "pixels", "--weights", "w"], "--encode: found 'pixels'; write latents or"),
    ],
)
def test_wrong_arguments_of_shards_are_errors(
    ray_session: None, words: list[str], error: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scenes("--out", str(tmp_path), "--rows", "2", "--corpora", "cc12m")
    assert prepare.main(["shards", "--source", str(tmp_path), "--out", str(tmp_path / "shards"), *words]) == 1
    assert error in capsys.readouterr().err


def test_the_default_folder_follows_fireedit_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FIREEDIT_HOME", str(tmp_path))
    assert write_scenes("--rows", "2", "--corpora", "cc12m") == 0
    assert (tmp_path / "corpora" / "cc12m" / "prepared.json").exists()
