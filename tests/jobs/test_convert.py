"""The command line of the conversion: one line of JSON, or one sentence and exit code 1."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from fireedit.jobs.convert import main
from fireedit.models.pipeline import FireEditPipeline
from tests.jobs.published_folders import write

FOLDERS = ("groma", "llm", "dinov2", "clip", "instruct-pix2pix")
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{0:064d}\nsize 1342177280\n"


def arguments(root: Path, out: Path, **changed: Path) -> list[str]:
    paths = {name: root / name for name in FOLDERS} | {"out": out} | changed
    return [word for name, path in paths.items() for word in (f"--{name}", str(path))] + ["--config", "nano"]


def error_of(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a conversion that fails; return its last line on stderr."""
    assert main(argv) == 1
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err
    return err[err.index("convert: ") :]


def test_report_is_one_line_and_the_folder_loads(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(published, tmp_path / "out")) == 0
    out, err = capsys.readouterr()
    report = json.loads(out.splitlines()[-1])  # DeepSpeed, once imported, warns on stdout
    assert report["out"] == str(tmp_path / "out") and report["parameters"] == sum(report["parts"].values())
    assert "fresh weights: qformer, tati, hvca, LoRA" in err and f"from {published / 'groma'}" in err
    assert "warning" not in err
    loaded = FireEditPipeline.from_pretrained(tmp_path / "out")
    assert float(loaded.qformer.query_tokens.detach().std()) == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("missing", FOLDERS)
def test_missing_folder_is_named(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    error = error_of(arguments(published, tmp_path / "out", **{missing: tmp_path / "nowhere"}), capsys)
    assert f"--{missing}: {tmp_path / 'nowhere'}" in error
    assert not (tmp_path / "out").exists()


def test_git_lfs_pointer_is_named(published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(published / "groma", tmp_path / "groma")
    shard = folder / "model-00002-of-00002.safetensors"
    shard.write_text(POINTER)
    error = error_of(arguments(published, tmp_path / "out", groma=folder), capsys)
    assert str(shard) in error and "git lfs pull" in error
    assert error.count("\n") == 1


def test_tensors_of_other_sizes_are_listed(published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "dinov2" / "model.safetensors", {"layernorm.weight": torch.zeros(7)})
    error = error_of(arguments(published, tmp_path / "out", dinov2=tmp_path / "dinov2"), capsys)
    assert re.search(r"size mismatch for dino.layernorm.weight.*\[7\].*\[96\]", error)
