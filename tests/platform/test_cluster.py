"""A Ray of our own: jobs run the code that was uploaded, and stopping it stops nothing else."""

import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from fireedit.platform.cluster import LocalRay

ROOT = Path(__file__).parents[2]
WHOSE_CODE = """
import os, platform, sys
sys.path.insert(0, os.getcwd())
import fireedit.platform.data.sample as sample
print("CODE", sample.__file__, getattr(sample, "MARK", None), platform.system())
"""


def submitted(own: LocalRay, folder: Path, *arguments: str) -> str:
    """What a job that runs whose.py prints of itself."""
    submit = ["ray", "job", "submit", *arguments]
    done = subprocess.run(submit, env=own.environment, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next((line for line in done.stdout.splitlines() if line.startswith("CODE")), done.stdout)


@pytest.mark.ray
@pytest.mark.slow
def test_a_job_runs_the_uploaded_code_and_stopping_ends_only_this_ray(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = tmp_path / "upload"
    for name in ("fireedit", "platform"):
        shutil.copytree(ROOT / name, upload / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", upload)
    with (upload / "platform" / "data" / "sample.py").open("a") as file:
        file.write("\nMARK = 'uploaded'\n")
    (upload / "whose.py").write_text(WHOSE_CODE)

    monkeypatch.chdir(ROOT)
    own = LocalRay(tmp_path / "ray.json")
    own.start(tmp_path / "ray.log", {})
    try:
        answer = submitted(own, tmp_path, "--working-dir", str(upload), "--", "python", "whose.py")
        assert "working_dir_files" in answer and "uploaded Linux" in answer
        answer = submitted(own, tmp_path, "--", "python", str(upload / "whose.py"))
        assert answer == f"CODE {ROOT}/platform/data/sample.py None Linux", "from the folder that Ray was started in"
    finally:
        folder = own._known["folder"]
        assert LocalRay(tmp_path / "ray.json").stop(), "another process finds it by its state"
    alive = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    assert not [line for line in alive if folder in " ".join(line)]
    assert not own.stop()

    import ray

    assert ray.get(ray.remote(num_cpus=0.1)(lambda: sys.version_info[0]).remote()) == 3, "the session's Ray still runs"
