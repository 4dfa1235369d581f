"""`jobs/sweep.py`: its flags are those of an evaluation and `--vary`; wrong ones are one sentence."""

from pathlib import Path

import pytest

from fireedit.jobs.sweep import build_parser, main


def test_flags_are_those_of_an_evaluation_and_more() -> None:
    words = ["--editor", "copy", "--set", "emu-edit", "--data", "x", "--out", "y", "--vary", "seed=0,1", "--first", "5"]
    args = build_parser().parse_args(words)
    assert (args.vary, args.shown, args.first, args.emu_set) == ("seed=0,1", 6, 5, "3589")


def test_a_wrong_sweep_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--editor", "copy", "--set", "reasonedit", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main([*words, "--vary", "scale=1"]) == 1
    assert "sweep.py: --vary scale=1: write NAME=VALUE" in capsys.readouterr().err
    assert main([*words, "--vary", "weights=a=/nowhere"]) == 1
    assert "/nowhere is no folder; write one of weights for a" in capsys.readouterr().err


def test_the_number_of_edits_shown_is_not_negative(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args(["--editor", "copy", "--set", "emu-edit", "--out", "y", "--shown", "-1"])
    assert "argument --shown: found '-1'; write a whole number from 0" in capsys.readouterr().err
