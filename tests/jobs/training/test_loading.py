"""The loop of a stage loads what its recipe asks for; its runs on Ray are in tests/jobs/test_train.py."""

from pathlib import Path

import pytest

from fireedit.jobs.training.loading import load_pipeline
from fireedit.jobs.training.recipe import FRESH, read_recipe
from fireedit.models.pipeline import FireEditPipeline


def test_an_ablation_is_saved_without_its_parts_and_resumes_only_without_them(tmp_path: Path) -> None:
    ablation = read_recipe(["--stage", "3", "init_from=fresh", "without=[regions, hvca]"])
    load_pipeline(ablation, FRESH).save_pretrained(tmp_path)
    saved = FireEditPipeline.from_pretrained(tmp_path)
    assert (saved.detector, saved.region_encoder, saved.hvca) == (None, None, None) and saved.tati is not None
    assert load_pipeline(ablation, str(tmp_path)).unet is not None
    with pytest.raises(ValueError, match=r"has no detector; write without=\[...\]"):
        load_pipeline(read_recipe(["--stage", "3"]), str(tmp_path))
