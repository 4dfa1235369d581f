"""The parts make a pipeline that edits and that the stages take up."""

from pathlib import Path

import pytest
import torch

from fireedit.jobs.training.assembly import PAINTER, PRETRAINED, assemble, finish
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.weights import fingerprint
from fireedit.platform import storage
from fireedit.platform.train import runs


def test_a_folder_of_parts_becomes_a_pipeline(tmp_path: Path) -> None:
    parts = FireEditPipeline.fresh_nano(seed=3)
    for name in (*PRETRAINED, *PAINTER, "vlm_tokenizer", "tokenizer"):
        getattr(parts, name).save_pretrained(tmp_path / name)
    report = assemble(tmp_path)
    made = FireEditPipeline.from_pretrained(tmp_path)
    assert set(report["fresh"]) == {"qformer", "tati", "hvca"} and 25 < report["megabytes"] <= 30
    assert all(fingerprint(getattr(made, name)) == fingerprint(getattr(parts, name).half()) for name in ("vae", "unet"))
    assert made.detector.dtype == torch.float32
    assert assemble(tmp_path)["megabytes"] == report["megabytes"]


def test_a_painter_that_is_still_in_training_may_be_missing(tmp_path: Path) -> None:
    parts = FireEditPipeline.fresh_nano(seed=3)
    for name in (*PRETRAINED, "vlm_tokenizer", "tokenizer"):
        getattr(parts, name).save_pretrained(tmp_path / name)
    assert set(assemble(tmp_path)["fresh"]) == {"qformer", "tati", "hvca", "unet", "vae"}


def test_a_finished_stage_takes_the_place_of_what_it_started_from(tmp_path: Path) -> None:
    trained, run = FireEditPipeline.fresh_nano(seed=4), runs.Run(str(tmp_path), "three")
    out = tmp_path / "nano"
    with pytest.raises(SystemExit, match="no finished run of nano stage 3"):
        finish(str(tmp_path), out)
    storage.write_bytes(run.recipe, b"{model: nano, stage: 3}")
    trained.save_pretrained(run.weights)
    assert finish(str(tmp_path), out)["run"] == "three"
    made = FireEditPipeline.from_pretrained(out)
    assert not [file for file in out.rglob("*.json") if str(tmp_path) in file.read_text()], "no machine's folders"
    assert "is_local" not in (out / "tokenizer" / "tokenizer_config.json").read_text()
    assert fingerprint(made.hvca) == fingerprint(trained.hvca.half()) and made.detector.dtype == torch.float32


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="run: python jobs/pretrain.py vision"):
        assemble(tmp_path)
