"""A run of a stage in its folder: the weights it starts from, the checks before it resumes, and its summary."""

import json
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from fireedit.jobs.training.recipe import AUTO, FRESH, TrainRecipe, read_recipe
from fireedit.jobs.training.sizes import differences, require_sizes, same_sizes
from fireedit.models.model import NANO
from fireedit.platform import config, storage
from fireedit.platform.cluster import start_ray
from fireedit.platform.console import say
from fireedit.platform.data.ingest import Corpora, set_aside
from fireedit.platform.data.preparation import prepare_missing
from fireedit.platform.data.shards import ShardsError
from fireedit.platform.train import runs
from fireedit.platform.train.progress import from_lines, summarize
from fireedit.platform.train.runs import Run


def refuse_another_run(recipe: TrainRecipe, run: Run) -> None:
    """Exit with a sentence if a run of this name has begun that this recipe cannot resume."""
    saved = run.saved_recipe()
    if saved is None:
        return
    try:
        before = config.parse(TrainRecipe, saved, where=run.recipe)
    except config.RecipeError as error:
        sys.exit(f"run {run.name} was begun by another version: {error}; write another run=NAME")
    keys = ("stage", "seed", "mixture", "without", "ema")
    changes = [(key, getattr(before, key), getattr(recipe, key)) for key in keys]
    changes += differences(saved["model"], config.to_plain(recipe.model), "model.")
    for key, found, wanted in changes:
        if found != wanted:
            sys.exit(f"run {run.name} has {key} {found}, not {wanted}; write another run=NAME")
    if before.samples_per_step != recipe.samples_per_step:
        sys.exit(
            f"run {run.name} has {before.samples_per_step} samples a step, not {recipe.samples_per_step}; with "
            f"workers.count={recipe.workers.count} write an engine.micro_batch and engine.accumulate that make as many"
        )


def starting_weights(recipe: TrainRecipe, run: Run) -> str:
    """Find the pipeline folder, or FRESH, that a run starts from; a run that resumes keeps its own.

    Raises:
        SystemExit: the folder holds no pipeline, or no run of the stage before has finished.
        RecipeError: the folder's weights have other sizes than the recipe.
    """
    saved = run.saved_recipe()
    if recipe.init_from == AUTO and saved is not None:
        return saved["init_from"]
    folder = _automatic(recipe) if recipe.init_from == AUTO else recipe.init_from
    if folder == FRESH:
        return FRESH
    folder = storage.absolute(folder)
    if not storage.exists(storage.join(folder, "model_index.json")):
        sys.exit(f"init_from: {folder} holds no model_index.json; write a folder that a run or convert.py saved")
    require_sizes(recipe.model, folder)
    return folder


def _automatic(recipe: TrainRecipe) -> str:
    """Choose the last finished run of the stage before, or nano's weights that ship."""
    model, before = recipe.model.preset, recipe.stage - 1
    found = runs.latest_finished(recipe.home, before, partial(same_sizes, sizes=recipe.model))
    if found is not None:
        return found.weights
    if model == "nano":
        say(f"no finished run of stage {before} under {recipe.home}/runs: from the weights that ship")
        return str(NANO)
    sys.exit(
        f"{recipe.home}/runs holds no finished run of {model} stage {before} with these sizes; run that stage first, "
        "or write init_from=FOLDER of a saved pipeline"
    )


def require_same_corpora(corpora: Corpora, run: Run) -> None:
    """Record the shards that the run draws from.

    Raises:
        ShardsError: the run began with other shards.
    """
    present = {name: {"rows": index.rows, "shards": index.fingerprint} for name, index in corpora.indices.items()}
    if not storage.exists(run.corpora):
        storage.write_bytes(run.corpora, json.dumps(present, indent=1).encode())
        return
    for name, before in json.loads(storage.read_bytes(run.corpora)).items():
        if present[name] != before:
            raise ShardsError(
                f"run {run.name} began with {before['rows']} rows of {name}; its shards have been made anew since, of "
                f"{present[name]['rows']}; write another run=NAME"
            )


def summary(recipe: TrainRecipe, run: Run) -> dict[str, Any]:
    """Summarize a finished run as the job's last line reports it."""
    figures = summarize(from_lines(storage.read_bytes(run.metrics)), recipe.mixture, recipe.log_every)
    paths = {"set_aside": set_aside(run.quarantine), "weights": run.weights}
    return {"run": run.name, "stage": recipe.stage, **figures, **paths}


def make_corpora(commands: Sequence[Sequence[str]]) -> list[str]:
    """Prepare the missing corpora of recipes, each given as the arguments of train.py; returns their names."""
    recipes = [read_recipe(argv) for argv in commands]
    start_ray()
    for recipe in recipes:
        prepare_missing(recipe.home, recipe.mixture, recipe.scenes, recipe.ingest.cpus_per_task)
    return sorted({name for recipe in recipes for name in recipe.mixture})
