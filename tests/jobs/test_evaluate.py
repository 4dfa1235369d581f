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
def test_drawn_scenes_are_judged_beside_other_editors(
    ray_session: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    choice = ["--families", "remove,no_op", "--edits", "2", "--sessions", "1", "--batch", "8", "--cpus", "0.25"]
    others = ["--beside", "copy", "instruct-pix2pix=nano"]
    drawn = ["--editor", "fireedit=nano", *others, "--set", "scenes", *choice, "--device", "cpu"]
    assert main([*drawn, "--out", str(tmp_path)]) == 0
    tables = json.loads(capsys.readouterr().out.splitlines()[-1])["tables"]
    rates = {row: by_split["unseen_seeds"] for row, by_split in tables["success"].items()}
    assert list(rates) == ["target", "copy", "instruct-pix2pix", "fireedit"]
    assert rates["copy"] == 0.5 and rates["fireedit"] >= 0.75, "a copy does what a no-op asks for"
    report = (tmp_path / "evaluation.md").read_text()
    assert "| remove | 2 | " in report and "success of the last scene" in report
    assert (tmp_path / "unseen_seeds-gallery.png").is_file()
    verdicts = [json.loads(line) for line in (tmp_path / "beside/copy/measures.jsonl").read_text().splitlines()]
    assert verdicts[0]["remark"] and "remark" not in verdicts[-4]


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
        (["--set", "scenes", "--splits", "seen"], "--splits: found 'seen'; write some of unseen_seeds"),
        (["--set", "scenes", "--judges", "/nowhere", "--steps", "0"], "num_inference_steps is 0"),
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


@pytest.mark.parametrize(
    "wrong", ["--edits -1", "--sessions -1", "--first -1", "--replicas 0", "--batch -1", "--cpus 0", "--gpus -1"]
)
def test_numbers_are_in_their_range(wrong: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flag, number = wrong.split()
    with pytest.raises(SystemExit):
        main([*words(tmp_path), flag, number])
    assert f"argument {flag}: found '{number}'; write a" in capsys.readouterr().err
