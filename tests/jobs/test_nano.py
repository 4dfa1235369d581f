"""The command that trains the small model."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fireedit.jobs import nano
from fireedit.models.pipeline import FireEditPipeline

CHECKOUT = Path(__file__).resolve().parents[2]
WITHOUT_RAY = "clip,vision,scene_reader,llm,painter,pipeline"


@pytest.mark.soak
def test_a_tiny_box_leaves_a_pipeline_that_edits(tmp_path: Path) -> None:
    command = ["jobs/nano.py", "--minutes", "0.2", "--tiny", "--device", "cpu", "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, *command, "--parts", WITHOUT_RAY], cwd=CHECKOUT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert set(report["parts"]) == set(WITHOUT_RAY.split(",")) and report["edits"]["full_inside_over_copy"] > 0
    assert not any("error" in part for part in report["parts"].values()), report["parts"]
    pipeline = FireEditPipeline.from_pretrained(tmp_path / "nano")
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline("Remove the dog.", np.zeros((64, 64, 3), np.uint8)).images[0].size == (64, 64)
    assert (tmp_path / "nano" / "figures" / "edits.png").is_file()
    assert sum(file.stat().st_size for file in tmp_path.glob("nano.tar.*")) > 20e6
    assert "until  after" in done.stderr.splitlines()[1], "the plan is printed first"


def test_an_unknown_part_lists_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        nano.main(["--parts", "vae"])
    assert "'vae'; write some of corpora, clip" in capsys.readouterr().err
