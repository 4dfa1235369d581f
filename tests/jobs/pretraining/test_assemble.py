"""The parts make a pipeline that edits and that the stages take up."""

from pathlib import Path

import pytest
import torch

from fireedit.jobs.pretraining.assemble import PRETRAINED, assemble
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.weights import fingerprint


def test_a_folder_of_parts_becomes_a_pipeline(tmp_path: Path) -> None:
    parts = FireEditPipeline.fresh_nano(seed=3)
    for name in (*PRETRAINED, "vlm_tokenizer", "tokenizer"):
        getattr(parts, name).save_pretrained(tmp_path / name)
    report = assemble(tmp_path)
    made = FireEditPipeline.from_pretrained(tmp_path)
    assert set(report["fresh"]) == {"qformer", "tati", "hvca"} and 15 < report["megabytes"] <= 25
    assert all(fingerprint(getattr(made, name)) == fingerprint(getattr(parts, name).half()) for name in ("vae", "unet"))
    assert made.detector.dtype == torch.float32
    assert assemble(tmp_path)["megabytes"] == report["megabytes"]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="run: python jobs/pretrain.py vision"):
        assemble(tmp_path)
