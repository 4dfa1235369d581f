"""The benchmark of detectors runs each kind on the same scenes."""

import json
from pathlib import Path

import pytest

from fireedit.benchmarks.detectors import main


def test_tiny_ones_run_beside_nanos(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--pictures", "2", "--rounds", "1", "--batch", "2"]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out.splitlines()[-1])
    rows = report["detectors"]
    assert [row["kind"] for row in rows] == ["ddetr", "sam", "hf:rt-detr"]
    assert all(row["s_per_picture"] > 0 and row["parameters"] > 0 and row["regions"] >= 1 for row in rows)
    assert report["paper_s_per_picture"] == 0.2 and report["device"] in err and " s" in err


@pytest.mark.parametrize(("name", "said"), [("{0}", "no such folder; write nano"), ("sam={0}", "no such folder")])
def test_a_missing_folder_is_named(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(SystemExit, match=f"detectors.py: {tmp_path}/none: {said}"):
        main([name.format(tmp_path / "none")])
