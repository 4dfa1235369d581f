"""A run starts from what its recipe asks for, each weight in the precision that training needs."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fireedit.benchmarks.tiny_detectors import save_tiny_rt_detr, save_tiny_sam
from fireedit.jobs.training import sizes
from fireedit.jobs.training.loading import load_pipeline
from fireedit.jobs.training.recipe import FRESH, read_recipe
from fireedit.jobs.training.sizes import ModelConfig, require_sizes
from fireedit.models.model import NANO
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.stages import STAGES
from fireedit.platform import storage
from tests.factories import PAPERLIKE, batch_of, edit_sample, files_of

MIXED = ("engine.precision=bf16", "optimizer.muon_lr=null")


def require_precisions(pipeline: FireEditPipeline, stage: int, frozen: torch.dtype) -> None:
    """Require float32 of what the stage trains and of the detector, `frozen` of its other weights."""
    for name, tensor in pipeline.model.state_dict().items():
        if name.split(".")[0] in STAGES[stage].parts and tensor.is_floating_point():
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


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Words of a recipe that choose a tiny published detector."""
    folder = tmp_path_factory.mktemp("published")
    sam = [f"model.detector.folder={save_tiny_sam(folder / 'sam')}", "model.detector.points_per_side=4"]
    thresholds = ["model.detector.pred_iou_threshold=0.3", "model.detector.stability_threshold=0.5"]
    rt_detr = [f"model.detector.kind=hf:{save_tiny_rt_detr(folder / 'rt-detr')}"]
    return {"SAMDetector": ["model.detector.kind=sam", *sam, *thresholds], "ObjectDetector": rt_detr}


@pytest.mark.parametrize("kind", ["SAMDetector", "ObjectDetector"])
def test_stages_2_and_3_train_with_a_published_detector(
    published: dict[str, list[str]], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*published[kind], "objective={denoise_weight: 1, align_weight: 0}"]
    recipe = read_recipe(["--stage", "2", *words])
    pipeline = load_pipeline(recipe, str(NANO))
    assert type(pipeline.detector).__name__ == kind
    require_precisions(pipeline, 2, torch.float32)
    before = {name: tensor.clone() for name, tensor in pipeline.detector.state_dict().items()}
    module = recipe.staged(pipeline)
    optimizer = torch.optim.SGD([part for part in module.parameters() if part.requires_grad], lr=0.1)
    module(batch_of(pipeline, edit_sample(1), edit_sample(2))).total.backward()
    optimizer.step()
    assert not pipeline.detector.training and pipeline.unet.conv_in.weight.grad.abs().sum() > 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in pipeline.detector.state_dict().items())
    pipeline.save_pretrained(tmp_path)

    monkeypatch.setattr(sizes, "load_detector", None)  # the weights have it
    recipe = read_recipe(["--stage", "3", *words])
    sizes.require_sizes(recipe.model, str(tmp_path))
    resumed = load_pipeline(recipe, str(tmp_path))
    assert type(resumed.detector).__name__ == kind
    assert recipe.staged(resumed)(batch_of(resumed, edit_sample(1))).total.isfinite()


def test_fresh_weights_and_bfloat16_have_the_published_detector_in_float32(published: dict[str, list[str]]) -> None:
    for words in published.values():
        pipeline = load_pipeline(read_recipe(["--stage", "3", *MIXED, *words, "init_from=fresh"]), FRESH)
        assert {tensor.dtype for tensor in pipeline.detector.parameters()} == {torch.float32}
        assert not any(tensor.is_meta for tensor in pipeline.detector.state_dict().values())


def test_an_ablation_without_regions_loads_no_detector(published: dict[str, list[str]]) -> None:
    recipe = read_recipe(["--stage", "3", *published["SAMDetector"], "without=[regions]"])
    assert load_pipeline(recipe, str(NANO)).detector is None
