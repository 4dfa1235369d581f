"""A run starts from what its recipe asks for, each weight in the precision that training needs."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fireedit.jobs.training.loading import load_pipeline
from fireedit.jobs.training.recipe import FRESH, read_recipe
from fireedit.jobs.training.sizes import ModelConfig, require_sizes
from fireedit.models.model import NANO
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.stages import STAGES
from fireedit.platform import storage
from tests.factories import PAPERLIKE, files_of

MIXED = ("engine.precision=bf16", "optimizer.muon_lr=null")


def require_precisions(pipeline: FireEditPipeline, stage: int, frozen: torch.dtype) -> None:
    """Require float32 of what the stage trains and of the detector, `frozen` of its other weights."""
    for name, tensor in pipeline.model.state_dict().items():
        if name.split(".")[0] in STAGES[stage].parts:
            exact = STAGES[stage].learns(name) or name.startswith("detector.")
            assert tensor.dtype == (torch.float32 if exact else frozen), name


def test_an_ablation_is_saved_without_its_parts_and_resumes_only_without_them(tmp_path: Path) -> None:
    ablation = read_recipe(["--stage", "3", "init_from=fresh", "without=[regions, hvca]"])
    load_pipeline(ablation, FRESH).save_pretrained(tmp_path)
    saved = FireEditPipeline.from_pretrained(tmp_path)
    assert (saved.detector, saved.region_encoder, saved.hvca) == (None, None, None) and saved.tati is not None
    assert load_pipeline(ablation, str(tmp_path)).unet is not None
    with pytest.raises(ValueError, match=r"has no detector; write without=\[...\]"):
        load_pipeline(read_recipe(["--stage", "3"]), str(tmp_path))


def test_stage_3_begins_an_hvca_on_weights_without_one(tmp_path: Path) -> None:
    load_pipeline(read_recipe(["--stage", "2", "without=[hvca]"]), str(NANO)).save_pretrained(tmp_path)
    recipe = read_recipe(["--stage", "3", "model.hvca.sources=fine"])
    require_sizes(recipe.model, str(tmp_path))
    pipeline = load_pipeline(recipe, str(tmp_path))
    assert pipeline.hvca.untrained and pipeline.hvca.config.sources == "fine"
    require_precisions(pipeline, 3, torch.float32)


@pytest.mark.parametrize(("stage", "words"), [(1, MIXED), (2, ()), (3, MIXED)])
def test_trained_weights_are_float32_and_frozen_ones_in_the_engines_precision(
    stage: int, words: tuple[str, ...]
) -> None:
    pipeline = load_pipeline(read_recipe(["--stage", str(stage), *words]), str(NANO))
    require_precisions(pipeline, stage, torch.bfloat16 if words else torch.float32)


def test_parts_that_a_stage_does_not_run_stay_mapped_from_their_files() -> None:
    unet = load_pipeline(read_recipe(["--stage", "1"]), str(NANO)).unet
    assert {tensor.dtype for tensor in unet.parameters()} == {torch.float16}
    assert all(file.startswith(str(NANO / "unet")) for file in files_of(unet.state_dict()).values())


def test_a_stages_weights_reach_the_next_as_they_were_and_uncopied(tmp_path: Path) -> None:
    recipe = read_recipe(["--config", "paper", "--stage", "3", "init_from=fresh"])
    recipe = replace(recipe, model=ModelConfig(preset="paper", **vars(PAPERLIKE)))
    pipeline = load_pipeline(recipe, FRESH)
    require_precisions(pipeline, 3, torch.bfloat16)
    pipeline.save_pretrained(tmp_path)
    before, after = pipeline.model.state_dict(), load_pipeline(recipe, str(tmp_path)).model.state_dict()
    for name, tensor in after.items():
        assert tensor.dtype == before[name].dtype and torch.equal(tensor, before[name]), name
    assert all(file.startswith(str(tmp_path)) for file in files_of(after).values())


def test_weights_in_a_bucket_are_loaded_from_the_nodes_copy(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIREEDIT_SCRATCH", str(tmp_path))
    address = storage.join(s3, "weights")
    with storage.writing_folder(address, last="model_index.json") as folder:
        FireEditPipeline.fresh().save_pretrained(folder)
    pipeline = load_pipeline(read_recipe(["--stage", "3"]), address)
    assert all(file.startswith(str(tmp_path / "copies")) for file in files_of(pipeline.unet.state_dict()).values())
