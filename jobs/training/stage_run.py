"""A run of a stage in its folder: the weights it starts from, the checks before it resumes, and its summary."""

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from fireedit.jobs.planning.levers import flops_of
from fireedit.jobs.planning.step_cost import measure_step
from fireedit.jobs.training import validation
from fireedit.jobs.training.recipe import AUTO, FRESH, TrainRecipe
from fireedit.jobs.training.sizes import RECIPE_DECIDES, SOURCES, require_sizes, same_sizes
from fireedit.jobs.training.stage_task import StageSettings, open_corpora, train_stage
from fireedit.models.model import NANO
from fireedit.platform import config, storage
from fireedit.platform.console import say
from fireedit.platform.data.ingest import Corpora, set_aside
from fireedit.platform.data.shards import ShardsError
from fireedit.platform.train import runs
from fireedit.platform.train.loop import DivergedError
from fireedit.platform.train.progress import from_lines, summarize
from fireedit.platform.train.runs import Run
from fireedit.platform.train.session import local_session, process_group
from fireedit.platform.train.validation import FAILED, attempt, rows_of

DECIDE = ("stage", "seed", "mixture", "without", "ema", "model", "ingest.shuffle_groups", "ingest.encoded")
"""Beginnings of the keys that decide the sequence of samples or the shapes of weights; a run keeps their values."""
OWN = ("run", "home", "init_from", "model.painting.")
"""Beginnings of the keys that say nothing about training."""


def refuse_another_run(recipe: TrainRecipe, run: Run) -> list[str]:
    """Exit with a sentence if a run of this name has begun that this recipe cannot resume.

    Returns:
        A line for every other key that has changed since.
    """
    try:
        storage.require_replaceable(run.weights, "model_index.json")
    except OSError as error:
        sys.exit(f"run {run.name}: {error}, or write another run=NAME")
    saved = run.saved_recipe()
    if saved is None:
        return []
    try:
        before = config.parse(TrainRecipe, saved, where=run.recipe)
    except config.RecipeError as error:
        sys.exit(f"run {run.name} was begun by another version: {error}; write another run=NAME")
    if before.samples_per_step != recipe.samples_per_step:
        sys.exit(
            f"run {run.name} has {before.samples_per_step} samples a step, not {recipe.samples_per_step}; with "
            f"workers.count={recipe.workers.most} write an engine.micro_batch and engine.accumulate that make as many"
        )
    old, new = flat(config.to_plain(before)), flat(config.to_plain(recipe))
    changed = [key for key in sorted(old | new) if old.get(key) != new.get(key) and not key.startswith(OWN)]
    for key in changed:
        if key.startswith(DECIDE):
            sys.exit(f"run {run.name} has {key} {old.get(key)}, not {new.get(key)}; write another run=NAME")
    return [f"{key}: {old.get(key)} -> {new.get(key)}" for key in changed]


def flat(values: Mapping[str, Any], section: str = "") -> dict[str, Any]:
    """Flatten nested values to dotted keys."""
    flattened: dict[str, Any] = {}
    for name, value in values.items():
        flattened |= flat(value, f"{section}{name}.") if isinstance(value, Mapping) else {f"{section}{name}": value}
    return flattened


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
    has_sizes = partial(same_sizes, sizes=recipe.model, but=(*RECIPE_DECIDES, SOURCES))
    found = runs.latest_finished(recipe.home, before, has_sizes)
    if found is not None:
        return found.weights
    if model == "nano":
        lacks = f"no finished run of stage {before} under {recipe.home}/runs: " if before else ""
        say(f"{lacks}from the weights that ship")
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
    validations = rows_of(run)
    if validations:
        figures |= {"validation": validations[-1], "failed_validations": sum(FAILED in row for row in validations)}
    return {"run": run.name, "stage": recipe.stage, **figures, **paths}


def run_stage(recipe: TrainRecipe, train: Callable[[TrainRecipe, Run], None]) -> dict[str, Any]:
    """Train a stage, or resume the run that the recipe names; returns the report of the finished run.

    Args:
        train: `train_locally`, or `train_on_ray` of ray_run.py.
    Raises:
        SystemExit: the run was asked to stop, has diverged, or cannot resume.
    """
    run = Run(recipe.home, run_name(recipe))
    if run.finished:
        refuse_another_run(recipe, run)
        say(f"run {run.name} is finished; write another run=NAME to train anew")
    else:
        try:
            train(recipe, run)
        except DivergedError as error:
            sys.exit(f"run {run.name}: {error}: the same command with these and run={run.name} resumes it")
    if not run.finished:
        sys.exit(f"run {run.name} stopped before its end; the same command with run={run.name} resumes it")
    return summary(recipe, run)


def run_locally(recipe: TrainRecipe) -> dict[str, Any]:
    """Do as `run_stage` without Ray: in the processes of torchrun, or in this one alone."""
    with process_group(recipe.workers.gpus > 0) as control:
        name = control.first(run_name(recipe))  # one that is made of the time differs between processes
        return run_stage(replace(recipe, run=name), train_locally)


def run_name(recipe: TrainRecipe) -> str:
    """Name a run as the recipe does, else by recipe and time."""
    return recipe.run or time.strftime(f"{recipe.name}-%Y%m%d-%H%M%S")


def begin(recipe: TrainRecipe, run: Run) -> StageSettings:
    """Check that the run can begin or resume, say what has changed, and record its recipe; corpora are there."""
    changes = refuse_another_run(recipe, run)
    init_from = starting_weights(recipe, run)
    say(f"run {run.name}: {recipe.name} from {init_from}, steps={recipe.steps} minutes={recipe.minutes}")
    for change in changes:
        say(f"  changed since its last sitting: {change}")
    storage.write_bytes(run.recipe, config.dump(replace(recipe, run=run.name, init_from=init_from)).encode())
    flops = flops_of(measure_step(recipe, checkpointing=False)) if recipe.workers.gpus else None
    return StageSettings(recipe=recipe, run=run, init_from=init_from, sample_flops=flops)


def train_locally(recipe: TrainRecipe, run: Run) -> None:
    """Train a run in the processes of this process group."""
    with local_session(run.folder, recipe.keep_checkpoints, run.stop) as session:
        if recipe.passes % session.workers:
            sys.exit(
                f"{recipe.passes} passes a step do not go evenly into {session.workers} processes; write an "
                f"engine.accumulate and workers.count whose product they divide"
            )
        settings = session.control.first(begin(recipe, run) if session.rank == 0 else None)
        assert settings is not None
        if session.rank == 0:
            require_same_corpora(open_corpora(recipe), run)
            validation.prepare(recipe)
        session.control.barrier()
        session.validate = partial(attempt, partial(validation.validate, settings=settings), run)
        train_stage(session, settings)
