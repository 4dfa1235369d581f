"""Turns of an evaluation: those that start from a picture of the set and have an output, with addresses."""

from pathlib import Path

import pytest

from fireedit.jobs.evaluation.sets.evaluation_set import Comparison, EvaluationSet, Turn
from fireedit.jobs.evaluation.turns import PaintedTurn, read_turns, save_turns


def edits(source: str) -> EvaluationSet:
    turns = [
        Turn(output="a/1.png", instruction="make it “red”", source=source),
        Turn(output="a/2.png", instruction="then blue", source="a/1.png", chained=True),
        Turn(output="b/1.png", instruction="no picture", source=source),
    ]
    compared = [Comparison(table="t", unit="a", output=turn.output, reference="") for turn in turns[:2]]
    return EvaluationSet(name="s", fingerprint="f", turns=turns, comparisons=compared, columns=())


def test_turns_from_pictures_of_the_set_that_have_an_output(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    save_turns(edits("/data/1.png"), f"{out}/pictures", out)
    picture = f"{out}/pictures/a/1.png"
    wanted = PaintedTurn(output="a/1.png", instruction="make it “red”", source="/data/1.png", picture=picture)
    assert read_turns(out) == [wanted]


def test_a_folder_that_was_moved_finds_what_lies_in_it(tmp_path: Path) -> None:
    out, moved = tmp_path / "out", tmp_path / "moved"
    save_turns(edits(f"{out}/set/source/1"), f"{out}/pictures", str(out))
    out.rename(moved)
    (turn,) = read_turns(str(moved))
    assert (turn.source, turn.picture) == (f"{moved}/set/source/1", f"{moved}/pictures/a/1.png")


def test_pictures_made_elsewhere_keep_their_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_turns(edits("/data/1.png"), "elsewhere", str(tmp_path / "out"))
    assert read_turns(str(tmp_path / "out"))[0].picture == f"{tmp_path}/elsewhere/a/1.png"


def test_addresses_in_a_bucket_keep_its_options(s3: str) -> None:
    bucket, mark, options = s3.partition("?")
    out, pictures = f"{bucket}/out{mark}{options}", f"{bucket}/out/pictures{mark}{options}"
    save_turns(edits(f"{bucket}/out/set/1{mark}{options}"), pictures, out)
    (turn,) = read_turns(out)
    assert turn.source == f"{bucket}/out/set/1{mark}{options}"
    assert turn.picture == f"{bucket}/out/pictures/a/1.png{mark}{options}"
