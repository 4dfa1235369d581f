"""The whole demo with everything minimal, behind a proxy that does not work."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fireedit.jobs.demo import main
from fireedit.jobs.demonstration.steps import is_healthy

DEAD_PROXY = "http://127.0.0.1:9"
"""Address of a port that nothing listens on."""


def test_folder_of_something_else_is_kept(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(SystemExit, match=f"--out: {tmp_path}"):
        main(["--out", str(tmp_path)])
    assert (tmp_path / "thesis.txt").exists()


@pytest.mark.ray
@pytest.mark.slow
def test_demo_trains_serves_and_edits_despite_a_dead_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, DEAD_PROXY)
    out = tmp_path / "demo"
    try:
        main(["--out", str(out), "--rows", "16", "--steps", "1", "--stages", "1"])
        report = json.loads(capsys.readouterr().out.splitlines()[-1])
        (stage,) = report["stages"]
        assert stage["step"] == 1 and (Path(stage["weights"]) / "model_index.json").is_file()
        picture = np.asarray(Image.open(report["picture"]))
        assert picture.std() > 10
        assert is_healthy(report["endpoint"].removesuffix("/v1/images/edits"))
    finally:
        main(["--out", str(out), "--stop"])
    assert "the demo's Ray is stopped" in capsys.readouterr().err
    assert not is_healthy(report["endpoint"].removesuffix("/v1/images/edits"))
