"""The whole demo with everything minimal, behind a proxy that does not work."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fireedit.jobs.demo import main
from fireedit.jobs.demonstration.steps import is_healthy

ROOT = Path(__file__).parents[2]
DEAD_PROXY = "http://127.0.0.1:9"
"""Address of a port that nothing listens on."""


def demo(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), DEAD_PROXY)
    command = [sys.executable, "jobs/demo.py", "--out", str(out), *options]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_folder_of_something_else_is_kept(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(SystemExit, match=f"--out: {tmp_path}"):
        main(["--out", str(tmp_path)])
    assert (tmp_path / "thesis.txt").exists()


@pytest.mark.ray
@pytest.mark.slow
def test_demo_trains_serves_and_edits_despite_a_dead_proxy(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    try:
        finished = demo(out, "--rows", "16", "--steps", "1", "--stages", "1")
        assert finished.returncode == 0, finished.stderr
        report = json.loads(finished.stdout)
        endpoint = report["endpoint"].removesuffix("/v1/images/edits")
        (stage,) = report["stages"]
        assert stage["step"] == 1 and (Path(stage["weights"]) / "model_index.json").is_file()
        assert np.asarray(Image.open(report["picture"])).std() > 10
        assert is_healthy(endpoint)
    finally:
        stopped = demo(out, "--stop")
    assert "the demo's Ray is stopped" in stopped.stderr and not is_healthy(endpoint)
