"""`jobs/compare.py`: sheets and a page from painted pictures, and what it says instead."""

import json
from pathlib import Path

import pytest
from PIL import Image

from fireedit.jobs.compare import main
from fireedit.jobs.evaluation.sets import scenes
from fireedit.jobs.evaluation.sets.magicbrush import open_set
from tests.factories import picture
from tests.jobs.evaluation.magicbrush_folder import write_magicbrush


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    root = str(write_magicbrush(tmp_path / "data"))
    for turn in open_set(root, "test", partial=True).turns:
        path = tmp_path / "ours" / turn.output
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(1, 30, 20)).save(path)
    return ["--set", "magicbrush-test", "--data", root, "--out", str(tmp_path / "out")]


def test_sheets_and_page_are_written(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--pictures", f"ours={tmp_path / 'ours'}", "--count", "2", "--sessions", "1"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["editors"], report["edits"], report["sessions"]) == (["ours"], 2, 1)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["edits.png", "index.html", "pictures", "sessions-1.png"]


def test_edits_can_be_named(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = ["--names", "40034/40034_inde_2", "--sessions", "0"]
    assert main([*words, "--pictures", f"ours={tmp_path / 'ours'}", *named]) == 0
    assert json.loads(capsys.readouterr().out)["edits"] == 1
    assert "make it blue" in (tmp_path / "out" / "index.html").read_text()


def test_drawn_scenes_need_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for turn in scenes.open_set(str(tmp_path / "set"), scenes.SceneChoice(edits=1, sessions=1)).turns:
        path = tmp_path / "ours" / turn.output
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(1, 64, 64)).save(path)
    shown = ["--pictures", f"ours={tmp_path / 'ours'}", "--count", "16", "--sessions", "1"]
    assert main(["--set", "scenes", *shown, "--out", str(tmp_path / "out")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["edits"], report["sessions"]) == (16, 1)


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        (["ours"], "--pictures ours: found no folder; write NAME=FOLDER"),
        (["a=x", "a=y"], "two have one name"),
        (["a=/nowhere"], "--pictures a=/nowhere: found no picture of magicbrush-test; write a folder that has some"),
    ],
)
def test_wrong_pictures_are_one_sentence(
    words: list[str], pictures: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--pictures", *pictures]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("count", ["0", "-2"])
def test_a_count_is_above_zero(words: list[str], count: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*words, "--pictures", "a=x", "--count", count])
    assert f"argument --count: found '{count}'; write a whole number above 0" in capsys.readouterr().err
