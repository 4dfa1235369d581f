"""The demo of evaluations: its tiny sets open, its commands are shown, and a failure ends it."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from fireedit.jobs import eval_demo
from fireedit.jobs.evaluation.evaluations import EvaluationConfig, open_edits


def test_its_sets_are_those_that_evaluations_open(tmp_path: Path) -> None:
    for name, folder in eval_demo.write_sets(tmp_path / "sets").items():
        config = EvaluationConfig(editor="copy", set=name, data=str(folder), out=str(tmp_path / name), partial=True)
        assert len(open_edits(config).turns) >= 5


def test_a_job_is_shown_as_its_command_and_a_failure_ends_the_demo(capsys: pytest.CaptureFixture[str]) -> None:
    def job(words: Sequence[str]) -> int:
        print('{"words": 2}')
        return 1 if "fail" in words else 0

    assert eval_demo.run(job, "sweep.py", "--out", "a b") == {"words": 2}
    assert "$ python jobs/sweep.py --out 'a b'" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="1"):
        eval_demo.run(job, "sweep.py", "fail")


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes").touch()
    with pytest.raises(SystemExit, match="--out: .* holds notes, but no .eval_demo"):
        eval_demo.main(["--out", str(tmp_path)])
    assert (tmp_path / "notes").exists()
