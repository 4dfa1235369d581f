"""Weights and runs of other sizes are refused; a LoRA of another rank begins on the merged LLM; detectors change."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from fireedit.benchmarks.tiny_detectors import save_tiny_rt_detr, save_tiny_sam
from fireedit.jobs.training import sizes as sizes_module
from fireedit.jobs.training.loading import load_pipeline
from fireedit.jobs.training.recipe import read_recipe
from fireedit.jobs.training.sizes import (
    ModelConfig,
    ModelSizes,
    replace_detector,
    require_sizes,
    resize_lora,
    same_sizes,
)
from fireedit.models.detector import Detector
from fireedit.models.detectors.object_detector import ObjectDetector
from fireedit.models.detectors.sam import SAMConfig, SAMDetector
from fireedit.models.model import NANO
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.vlm import VLM
from fireedit.platform.config import RecipeError, to_plain
from tests.factories import batch_of, edit_sample, picture, shaken


def sizes(**changes: object) -> ModelConfig:
    return TypeAdapter(ModelSizes).validate_python({"preset": "nano", **changes})


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved pipeline of fresh weights, whose LoRA is untrained."""
    folder = tmp_path_factory.mktemp("fresh")
    FireEditPipeline.fresh().save_pretrained(folder)
    return folder


def test_sizes_of_a_saved_recipe_are_compared_but_for_its_sampler_settings() -> None:
    nano, wider = sizes(), sizes(vlm={"lora_rank": 16})
    assert same_sizes(to_plain(nano), nano) and same_sizes(to_plain(wider), wider)
    assert not same_sizes(to_plain(nano), wider) and not same_sizes("nano", nano)
    assert same_sizes(to_plain(sizes(painting={"steps": 3})), nano)


def test_weights_of_other_sizes_are_refused(fresh: Path) -> None:
    require_sizes(sizes(), str(fresh))
    with pytest.raises(RecipeError, match=r"qformer.layers 4, not 3; write model.qformer.layers=4"):
        require_sizes(sizes(qformer={"layers": 3}), str(fresh))
    with pytest.raises(RecipeError, match=r"detector.proposals.max_regions 8, not 4"):
        require_sizes(sizes(detector={"proposals": {"max_regions": 4}}), str(fresh))


def test_another_rank_merges_the_trained_lora_and_begins_as_a_no_op() -> None:
    recipe = read_recipe(["--stage", "2", "model.vlm.lora_rank=16", "model.vlm.lora_targets=[q_proj, k_proj]"])
    require_sizes(recipe.model, str(NANO))
    before, after = VLM.from_pretrained(NANO / "vlm"), load_pipeline(recipe, str(NANO)).vlm
    assert after.config["lora_rank"] == 16 and not any(parameter.requires_grad for parameter in after.parameters())
    names = {name for name, _ in after.named_parameters() if "lora_A" in name}
    assert names and all("q_proj" in name or "k_proj" in name for name in names)
    ids = torch.arange(20)[None]
    before_loss, after_loss = (vlm(ids, ids).losses for vlm in (before.float().eval(), after.float()))
    torch.testing.assert_close(after_loss, before_loss)


def test_a_lora_begins_on_an_llm_that_has_none() -> None:
    before, pipeline = VLM.from_pretrained(NANO / "vlm").eval(), FireEditPipeline.from_pretrained(NANO)
    ids = torch.arange(20)[None]
    for rank in (0, 8):
        resize_lora(pipeline, sizes(vlm={"lora_rank": rank}), seed=0)
        assert any("lora_" in name for name in pipeline.vlm.state_dict()) == (rank > 0)
        torch.testing.assert_close(pipeline.vlm(ids, ids).losses, before.float()(ids, ids).losses)


def test_a_recipe_decides_what_dropped_text_reads_whatever_the_weights_were_trained_with(tmp_path: Path) -> None:
    changed = read_recipe(["--stage", "3", "model.hvca.null_detail=true"])
    require_sizes(changed.model, str(NANO))
    pipeline = load_pipeline(changed, str(NANO))
    assert pipeline.hvca.config.null_detail and pipeline.model.null_detail
    pipeline.save_pretrained(tmp_path)
    assert FireEditPipeline.from_pretrained(tmp_path, parts=("hvca",)).hvca.config.null_detail

    plain = read_recipe(["--stage", "3"])
    assert same_sizes(to_plain(changed.model), plain.model), "a stage starts from a run of either"
    require_sizes(plain.model, str(tmp_path))
    assert not load_pipeline(plain, str(tmp_path)).hvca.config.null_detail


@pytest.mark.parametrize("selected", ["coarse", "fine"])
def test_stage_3_trains_an_hvca_of_the_recipes_sources_in_the_place_of_an_untrained_one(
    fresh: Path, tmp_path: Path, selected: str
) -> None:
    recipe = read_recipe(["--stage", "3", f"model.hvca.sources={selected}", "dropout.image=0", "dropout.both=0"])
    require_sizes(recipe.model, str(fresh))
    pipeline = load_pipeline(recipe, str(fresh))
    again = load_pipeline(recipe, str(fresh)).hvca
    assert all(torch.equal(*pair) for pair in zip(pipeline.hvca.parameters(), again.parameters(), strict=True))
    module = recipe.staged(pipeline)
    shaken(pipeline.unet, scale=0.02)
    module(batch_of(pipeline, edit_sample(1))).total.backward()
    with torch.no_grad():
        for parameter in pipeline.hvca.parameters():
            parameter -= 0.1 * parameter.grad.sign()
    pipeline.save_pretrained(tmp_path)

    saved = FireEditPipeline.from_pretrained(tmp_path)
    assert saved.hvca.config.sources == selected and not saved.hvca.untrained
    edited = [
        each("make it red", Image.fromarray(picture(1)), generator=torch.Generator().manual_seed(0), output_type="np")
        for each in (pipeline, saved)
    ]
    assert np.allclose(edited[0].images, edited[1].images, atol=1e-4)
    require_sizes(recipe.model, str(tmp_path))
    with pytest.raises(
        RecipeError, match=f"an HVCA trained with hvca.sources {selected}, not both; write .*={selected}"
    ):
        require_sizes(sizes(), str(tmp_path))


def test_a_trained_hvca_is_not_replaced_by_one_of_other_sources() -> None:
    changed = sizes(hvca={"sources": "coarse"})
    with pytest.raises(
        RecipeError, match="nano has an HVCA trained with hvca.sources both, not coarse; write model.hvca"
    ):
        require_sizes(changed, str(NANO))
    assert not same_sizes(to_plain(sizes()), changed)


def test_fresh_weights_have_the_recipes_sizes() -> None:
    recipe = read_recipe(["--stage", "1", "model.qformer.layers=2", "init_from=fresh"])
    assert load_pipeline(recipe, "fresh").qformer.config["layers"] == 2


def test_another_detector_keeps_the_selection_of_the_preset() -> None:
    assert sizes(detector={"kind": "sam", "folder": "/sam"}).detector == SAMConfig(
        folder="/sam", proposals=sizes().detector.proposals
    )
    again = TypeAdapter(ModelSizes).validate_python(to_plain(sizes(detector={"kind": "hf:rt-detr"})))
    assert again.detector.kind == "hf:rt-detr" and again.detector.proposals.max_regions == 8
    with pytest.raises(ValidationError, match="found kind 'san'; write ddetr, sam, hf:NAME or yolov10"):
        sizes(detector={"kind": "san"})


def test_weights_with_another_detector_are_taken_for_a_published_one_alone(tmp_path: Path) -> None:
    sam, other = sizes(detector={"kind": "sam", "folder": "/sam"}), sizes(detector={"kind": "hf:/data/rt-detr"})
    for published in (sam, other):
        require_sizes(published, str(NANO))
        assert same_sizes(to_plain(sizes()), published) and same_sizes(to_plain(sam), published)
    assert not same_sizes(to_plain(sam), sizes())
    (tmp_path / "detector").mkdir()
    (tmp_path / "detector" / "config.json").write_text('{"kind": "hf:rt-detr", "proposals": {"max_regions": 8}}')
    require_sizes(sam, str(tmp_path))
    with pytest.raises(
        RecipeError, match="has detector.kind hf:rt-detr, not ddetr; write model.detector.kind=hf:rt-detr"
    ):
        require_sizes(sizes(), str(tmp_path))
    fewer = {"kind": "sam", "folder": "/sam", "proposals": {"max_regions": 4}}
    with pytest.raises(RecipeError, match="detector.proposals.max_regions 8, not 4"):
        require_sizes(sizes(detector=fewer), str(tmp_path))


def test_a_detector_is_loaded_where_the_weights_have_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sam = sizes(detector={"kind": "sam", "folder": str(save_tiny_sam(tmp_path / "sam")), "points_per_side": 2})
    rt_detr = sizes(detector={"kind": f"hf:{save_tiny_rt_detr(tmp_path / 'rt-detr')}"})
    pipeline = FireEditPipeline.from_pretrained(NANO, parts=("detector",))
    replace_detector(pipeline, sizes())
    assert type(pipeline.detector) is Detector
    for wanted, kind in ((sam, SAMDetector), (rt_detr, ObjectDetector), (sam, SAMDetector)):
        replace_detector(pipeline, wanted)
        assert type(pipeline.detector) is kind
    monkeypatch.setattr(sizes_module, "load_detector", None)  # it would be called for another one
    moved = sizes(detector={"kind": "sam", "folder": "/elsewhere/sam", "points_per_side": 2})
    replace_detector(pipeline, moved)
    with pytest.raises(TypeError, match="NoneType"):
        replace_detector(pipeline, sizes(detector={"kind": "sam", "folder": "/elsewhere/sam"}))
    pipeline.register_modules(detector=None)
    replace_detector(pipeline, sam)
    assert pipeline.detector is None, "the ablation without regions"
