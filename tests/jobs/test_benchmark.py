"""Tiny benchmarks: fresh weights fail, and a second run takes all pictures from the cache."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fireedit.jobs import benchmark
from fireedit.jobs.evaluation.scene_reader import SceneReader, SceneReaderConfig, save_reader
from fireedit.models.pipeline import FireEditPipeline


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    FireEditPipeline.fresh(seed=0).save_pretrained(folder)
    torch.manual_seed(0)
    save_reader(SceneReader(SceneReaderConfig(widths=(8, 16), groups=4)), folder)
    return folder


def run(capsys: pytest.CaptureFixture[str], weights: Path, out: Path, *more: str) -> tuple[dict[str, Any], str]:
    words = ["--weights", weights, "--judges", weights, "--out", out / "report", "--home", out / "home"]
    words += ["--edits", 2, "--sessions", 1, "--steps", 1, "--families", "remove,no_op", *more]
    benchmark.main(list(map(str, words)))
    output = capsys.readouterr()
    return json.loads(output.out), output.err


def test_a_benchmark_writes_tables_json_sheets_and_galleries(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report, log = run(capsys, weights, tmp_path, "--rows", "copy,vae,full,full@none")
    assert list(report["success"]) == ["target", "copy", "vae", "full", "full@none"], "the target comes first"
    assert (report["bars_met"], report["bars_of"]) == (1, 5), "fresh weights return the source"
    assert report["bars"]["remove"] == {"found": None, "wanted": 0.8, "met": False}, "fresh judges pass no target"
    assert "s each" in log
    names = {"benchmark.md", "benchmark.json", *(f"unseen_seeds-{name}.png" for name in ("remove", "no_op", "gallery"))}
    assert {path.name for path in (tmp_path / "report").iterdir()} == names
    written = json.loads((tmp_path / "report" / "benchmark.json").read_text())
    assert [row["regions"] for row in written["rows"]] == ["", "", "", "predicted", "none"]
    assert written["rows"][3]["painting"].startswith("steps 1, ")
    assert written["splits"]["unseen_seeds"]["remove"]["target"]["l1"][0] == 0
    assert str(tmp_path) not in json.dumps(written), "JSON contains no folders"
    scores = Path(next(line for line in log.splitlines() if "verdicts" in line).split(": ")[1])
    assert scores.is_relative_to(tmp_path / "home") and len(scores.read_text().splitlines()) == 2 * 5 * 2
    first = (tmp_path / "report" / "benchmark.json").read_bytes()
    _, log = run(capsys, weights, tmp_path, "--rows", "target,copy,vae,full,full@none")
    assert "s each" not in log, "all pictures are cached"
    assert (tmp_path / "report" / "benchmark.json").read_bytes() == first


def test_the_knowledge_split_has_a_lead_and_no_sessions(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--rows", "ip2p,ip2p_plain,full", "--splits", "knowledge", "--families", "reasoning"]
    report, _ = run(capsys, weights, tmp_path, *more)
    assert list(report["bars"]) == ["knowledge: lead over ip2p, points"] and report["sessions"] == {}
    assert "Lead of `full` on this split" in (tmp_path / "report" / "benchmark.md").read_text()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--splits", "seen"], "--splits: 'seen'"),
        (["--rows", "full,full"], "two rows"),
        (["--steps", "0"], "num_inference_steps is 0"),
        (["--rows", "full=/nowhere"], "neither a pipeline nor a UNet"),
        (["--judges", "/nowhere"], "pretrain.py scene_reader"),
    ],
)
def test_a_wrong_option_says_what_to_write(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    with pytest.raises(SystemExit, match=message):
        run(capsys, weights, tmp_path, *more)
