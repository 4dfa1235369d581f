"""The whole benchmark, tiny: fresh weights fail, the target does not, and a second run edits nothing."""

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
    FireEditPipeline.fresh_nano(seed=0).save_pretrained(folder)
    torch.manual_seed(0)
    save_reader(SceneReader(SceneReaderConfig(widths=(8, 16), groups=4)), folder)
    return folder


def run(capsys: pytest.CaptureFixture[str], weights: Path, out: Path, *more: str) -> tuple[dict[str, Any], str]:
    words = ["--weights", weights, "--judges", weights, "--out", out / "report", "--home", out / "home"]
    words += ["--edits", 2, "--sessions", 1, "--steps", 1, "--families", "remove,no_op", *more]
    benchmark.main(list(map(str, words)))
    said = capsys.readouterr()
    return json.loads(said.out), said.err


def test_a_benchmark_ends_with_table_json_sheets_and_gallery(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report, said = run(capsys, weights, tmp_path, "--rows", "copy,vae,full,full@none")
    assert list(report["success"]) == ["target", "copy", "vae", "full", "full@none"], "the judge's own rate comes first"
    assert (report["bars_met"], report["bars_of"]) == (1, 5), "fresh weights leave what is outside"
    assert report["bars"]["remove"] == {"found": None, "wanted": 0.8, "met": False}, "fresh judges pass nothing"
    assert "s each" in said
    names = {"benchmark.md", "benchmark.json", *(f"unseen_seeds-{name}.png" for name in ("remove", "no_op", "gallery"))}
    assert {path.name for path in (tmp_path / "report").iterdir()} == names
    told = json.loads((tmp_path / "report" / "benchmark.json").read_text())
    assert [row["regions"] for row in told["rows"]] == ["", "", "", "predicted", "none"]
    assert told["rows"][3]["painting"].startswith("steps 1, ")
    assert told["splits"]["unseen_seeds"]["remove"]["target"]["l1"][0] == 0
    assert str(tmp_path) not in json.dumps(told), "JSON names no machine's folders"
    scores = Path(next(line for line in said.splitlines() if "verdict" in line).split(": ")[1])
    assert scores.is_relative_to(tmp_path / "home") and len(scores.read_text().splitlines()) == 2 * 5 * 2
    first = (tmp_path / "report" / "benchmark.json").read_bytes()
    _, said = run(capsys, weights, tmp_path, "--rows", "target,copy,vae,full,full@none")
    assert "s each" not in said, "all pictures were kept"
    assert (tmp_path / "report" / "benchmark.json").read_bytes() == first


def test_the_split_of_knowledge_has_a_lead_and_no_sessions(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--rows", "ip2p,ip2p_plain,full", "--splits", "knowledge", "--families", "reasoning"]
    report, _ = run(capsys, weights, tmp_path, *more)
    assert list(report["bars"]) == ["knowledge: lead over ip2p, points"] and report["sessions"] == {}
    assert "`full` succeeds oftener here" in (tmp_path / "report" / "benchmark.md").read_text()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--splits", "seen"], "--splits: 'seen'"),
        (["--rows", "full=/nowhere"], "neither a pipeline nor a UNet"),
        (["--judges", "/nowhere"], "pretrain.py scene_reader"),
    ],
)
def test_what_cannot_be_run_says_what_to_write(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    with pytest.raises(SystemExit, match=message):
        run(capsys, weights, tmp_path, *more)
