"""`jobs/evaluate.py` on Ray: painted, measured and written; started again, nothing is painted twice."""

import json
from pathlib import Path

import pytest

from fireedit.jobs.evaluate import main
from tests.jobs.evaluation.magicbrush_folder import write_magicbrush


def words(folder: Path) -> list[str]:
    asked = ["--editor", "copy", "--set", "magicbrush-test", "--data", str(folder / "data"), "--partial"]
    return [*asked, "--out", str(folder / "out"), "--cpus", "0.25", "--device", "cpu"]


@pytest.mark.ray
@pytest.mark.slow
def test_an_evaluation_from_set_to_tables(
    ray_session: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_magicbrush(tmp_path / "data")
    assert main(words(tmp_path)) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 0 < report["tables"]["single-turn"]["l1"] < report["tables"]["multi-turn"]["l1"] < 1
    assert len(list((tmp_path / "out" / "pictures").glob("*/*.png"))) == 13
    assert (tmp_path / "out" / "evaluation.md").read_text().startswith("# copy on magicbrush-test")


@pytest.mark.soak
def test_started_again_it_paints_what_is_missing(ray_session: None, tmp_path: Path) -> None:
    write_magicbrush(tmp_path / "data")
    assert main(words(tmp_path)) == 0
    pictures = sorted((tmp_path / "out" / "pictures").glob("*/*.png"))
    stamps = [path.stat().st_mtime_ns for path in pictures]
    files = [(tmp_path / "out" / name).read_bytes() for name in ("evaluation.md", "evaluation.json")]
    pictures[3].unlink()
    assert main(words(tmp_path)) == 0
    assert [path.stat().st_mtime_ns for path in pictures if path != pictures[3]] == stamps[:3] + stamps[4:]
    assert pictures[3].exists()
    assert [(tmp_path / "out" / name).read_bytes() for name in ("evaluation.md", "evaluation.json")] == files


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--editor", "instructpix2pix=x"], "'instructpix2pix' is no editor; write one of fireedit"),
        (["--data", "/nowhere"], "/nowhere"),
        (["--editor", "magicbrush"], "found no folder of weights; write --editor magicbrush=FOLDER"),
    ],
)
def test_what_cannot_be_evaluated_is_one_sentence(
    wrong: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_magicbrush(tmp_path / "data")
    assert main([*words(tmp_path), *wrong]) == 1
    err = capsys.readouterr().err
    assert "evaluate.py: " in err and message in err and "Traceback" not in err
