"""Batch on which a step is measured."""

from dataclasses import replace

from fireedit.jobs.planning.example_batch import TEXT_TOKENS, example_batch
from fireedit.jobs.training.recipe import TrainRecipe, read_recipe
from fireedit.models.model import preset
from fireedit.models.tokens import PADDING


def test_prompts_have_the_wanted_length(nano: TrainRecipe) -> None:
    batch = example_batch(nano, samples=3, text_tokens=100)
    assert batch.input_ids.shape == (3, 100) and batch.is_edit.all()
    assert (batch.input_ids != PADDING).all()


def test_prompts_are_at_most_as_long_as_the_model_takes(nano: TrainRecipe) -> None:
    assert example_batch(nano, 1, text_tokens=10_000).input_ids.shape[1] == nano.model.vlm.prompt.max_tokens


def test_the_papers_prompts_are_470_tokens_long() -> None:
    sizes = preset("paper")
    image = (sizes.vision.image_size // sizes.vision.patch_size) ** 2 // 4
    assert image + sizes.detector.proposals.max_regions + TEXT_TOKENS == 470


def test_stage_1_has_captions_without_pictures() -> None:
    recipe = read_recipe(["--stage", "1", "--config", "nano"])
    batch = example_batch(recipe, 2)
    assert batch.source_pixels is None and batch.view.shape == (2, 1, 1, 3)


def test_an_encoded_recipe_reads_moments(nano: TrainRecipe) -> None:
    batch = example_batch(replace(nano, ingest=replace(nano.ingest, encoded=True)), 2)
    assert batch.source_pixels is None and batch.source_moments is not None
