"""A stage on Ray: its corpora prepared by Ray Data, its workers run by Ray Train."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from fireedit.jobs.training import validation
from fireedit.jobs.training.recipe import TrainRecipe, read_recipe
from fireedit.jobs.training.stage_run import begin, require_same_corpora, run_stage
from fireedit.jobs.training.stage_task import open_corpora, train_stage_on_ray
from fireedit.platform.cluster import ResourcesError, require_resources, start_ray
from fireedit.platform.data.conversion import TooManyBadRowsError, UnreadablePartError
from fireedit.platform.data.preparation import PrepareError, prepare_missing
from fireedit.platform.train.launcher import launch
from fireedit.platform.train.runs import Run

FIT = (
    "write workers.count, workers.cpus, ingest.cpus_per_task and validation.cpus that fit, for example "
    "workers.cpus=0.25"
)


PREPARE_ERRORS = (PrepareError, ResourcesError, TooManyBadRowsError, UnreadablePartError)


def run_on_ray(recipe: TrainRecipe) -> dict[str, Any]:
    """Do as `run_stage` with Ray Train."""
    return run_stage(recipe, train_on_ray)


def train_on_ray(recipe: TrainRecipe, run: Run) -> None:
    """Train a run with Ray Train on this process's cluster, or on one that it starts.

    Raises:
        SystemExit: the cluster is too small, or corpora cannot be prepared.
    """
    settings = begin(recipe, run)
    start_ray()
    try:
        require_resources(recipe.bundles, FIT)
        prepare_missing(recipe.home, recipe.mixture, recipe.scenes, recipe.ingest.cpus_per_task)
    except PREPARE_ERRORS as error:
        sys.exit(f"train.py: {error}")
    require_same_corpora(open_corpora(recipe), run)
    validation.prepare(recipe)
    validate = partial(validation.validate, settings=replace(settings, on_ray=True))
    launch(
        train_stage_on_ray,
        {"settings": settings},
        recipe.workers,
        run,
        keep=recipe.keep_checkpoints,
        passes=recipe.passes,
        validate=validate if recipe.validate_every else None,
        validation_resources=recipe.validation.bundle,
    )


def make_corpora(commands: Sequence[Sequence[str]]) -> list[str]:
    """Prepare the missing corpora of recipes, each given as the arguments of train.py; returns their names.

    Raises:
        SystemExit: they cannot be prepared.
    """
    recipes = [read_recipe(argv) for argv in commands]
    start_ray()
    try:
        for recipe in recipes:
            prepare_missing(recipe.home, recipe.mixture, recipe.scenes, recipe.ingest.cpus_per_task)
    except PREPARE_ERRORS as error:
        sys.exit(f"pretrain.py: {error}")
    return sorted({name for recipe in recipes for name in recipe.mixture})
