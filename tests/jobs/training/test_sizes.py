"""Weights and runs of other sizes are refused; a LoRA of another rank begins on the merged LLM."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fireedit.jobs.training.recipe import read_recipe
from fireedit.jobs.training.sizes import MODEL_SIZES, ModelConfig, SizesError, require_sizes, same_sizes
from fireedit.jobs.training.stage_loop import load_pipeline
from fireedit.models.model import NANO
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.settings import PaintSettings
from fireedit.models.vlm import VLM
from fireedit.platform.config import to_plain

RANK_16 = {"preset": "nano", "vlm": {"lora_rank": 16}}


def sizes(model: Any) -> ModelConfig:
    return MODEL_SIZES.validate_python(model)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved pipeline of fresh weights, whose LoRA is untrained."""
    folder = tmp_path_factory.mktemp("fresh")
    FireEditPipeline.fresh_nano().save_pretrained(folder)
    return folder


def test_sizes_of_a_saved_recipe_are_compared_short_or_whole() -> None:
    nano, wider = sizes("nano"), sizes(RANK_16)
    assert same_sizes("nano", nano) and same_sizes(to_plain(nano), nano) and same_sizes({"preset": "nano"}, nano)
    assert not same_sizes("nano", wider) and not same_sizes("paper", nano) and same_sizes(to_plain(wider), wider)
    assert same_sizes("nano", replace(nano, painting=PaintSettings())), "painting is no size"
    assert not same_sizes({"preset": "nano", "vlm": {"width": "wide"}}, nano), "a model of another version"


def test_weights_of_other_sizes_are_refused(fresh: Path) -> None:
    require_sizes(sizes("nano"), str(fresh))
    with pytest.raises(SizesError, match=r"qformer.layers 4, not 3; write model.qformer.layers=4"):
        require_sizes(sizes({"preset": "nano", "qformer": {"layers": 3}}), str(fresh))
    with pytest.raises(SizesError, match=r"detector.proposals .*'max_regions': 8.*, not .*'max_regions': 4"):
        require_sizes(sizes({"preset": "nano", "detector": {"proposals": {"max_regions": 4}}}), str(fresh))


def test_another_rank_merges_the_trained_lora_and_begins_as_a_no_op(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = read_recipe(["--stage", "2", "model.vlm.lora_rank=16", "model.vlm.lora_targets=[q_proj, k_proj]"])
    require_sizes(recipe.model, str(NANO))
    assert "vlm.lora_rank 8" in capsys.readouterr().err

    before, after = VLM.from_pretrained(NANO / "vlm"), load_pipeline(recipe, str(NANO)).vlm
    assert after.config["lora_rank"] == 16 and not any(parameter.requires_grad for parameter in after.parameters())
    names = {name for name, _ in after.named_parameters() if "lora_A" in name}
    assert names and all("q_proj" in name or "k_proj" in name for name in names)
    ids = torch.arange(20)[None]
    before_loss, after_loss = (vlm(ids, ids).loss for vlm in (before.float().eval(), after.float()))
    torch.testing.assert_close(after_loss, before_loss)


def test_fresh_weights_have_the_recipes_sizes() -> None:
    recipe = read_recipe(["--stage", "1", "model.qformer.layers=2", "init_from=fresh"])
    assert load_pipeline(recipe, "fresh").qformer.config["layers"] == 2
