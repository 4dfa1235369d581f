"""Train one stage: `python jobs/train.py --stage N [--config nano|paper|FILE] [key=value ...]`.

Alone it starts a Ray of its own; under `ray job submit` it joins the cluster that it was submitted to. A run that was
broken off goes on when it is started again with its `run=NAME`.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import argparse
import json
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Literal

import diffusers
import ray
import ray.train
import torch
import transformers
import yaml
from pydantic import PositiveInt
from transformers import AutoTokenizer

from fireedit.jobs.prepare import prepare_scenes
from fireedit.models.fireedit import NANO, FireEdit, preset
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.processor import Batch, Processor, ProcessorConfig
from fireedit.models.stages import STAGES, DropoutConfig, StagedFireEdit
from fireedit.models.tokens import PromptError
from fireedit.platform import checkpoints, config, runs, storage
from fireedit.platform.data.ingest import IngestConfig, epochs_of, prepared, set_aside
from fireedit.platform.data.mixture import Mixture, check_weights
from fireedit.platform.train.engine import Engine, EngineConfig
from fireedit.platform.train.launcher import WorkersConfig, launch, start_ray
from fireedit.platform.train.optimizer import OptimizerConfig
from fireedit.platform.train.progress import Progress, from_lines, to_lines, window_mean

FRESH = "fresh"
WINDOW = 20
"""Steps whose mean losses stand for the beginning and the end of a run in its summary."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class ScenesConfig:
    rows: PositiveInt
    """Scenes per corpus."""
    size: PositiveInt
    """Pixels a side."""


@dataclass(frozen=True, kw_only=True)
class TrainRecipe:
    """Everything that one run of one stage depends on."""

    model: Literal["nano", "paper"]
    """Which sizes."""
    stage: Literal[1, 2, 3]
    steps: PositiveInt
    """Optimiser steps."""
    optimizer: OptimizerConfig
    engine: EngineConfig
    workers: WorkersConfig
    mixture: Mapping[str, float]
    """Corpus to share."""
    ingest: IngestConfig = field(default_factory=IngestConfig)
    dropout: DropoutConfig = field(default_factory=DropoutConfig)
    scenes: ScenesConfig | None = None
    """Procedural scenes to write where a corpus of the mixture is missing; None asks for the real ones."""
    gradient_checkpointing: bool = False
    """Trade a second forward pass of LLM and UNet for their activations' memory."""
    init_from: str = "auto"
    """Weights to start from: a pipeline folder, `fresh`, or `auto`: the last finished run of the stage before."""
    home: str = field(default_factory=storage.home)
    """Folder or s3:// address of corpora and runs."""
    run: str = ""
    """Name of the run; empty makes one of recipe and time. That of an unfinished run goes on with it."""
    seed: int = 0
    log_every: PositiveInt = 10
    save_every: PositiveInt = 500
    keep_checkpoints: PositiveInt = 2


def main() -> None:
    recipe = read_recipe(sys.argv[1:])
    run = runs.Run(recipe.home, recipe.run or runs.new_name(recipe.model, recipe.stage))
    refuse_another_run(recipe, run)
    if run.finished:
        say(f"run {run.name} is finished; write another run=NAME to train anew")
        print(json.dumps(summary(recipe, run)))
        return
    init_from = starting_weights(recipe, run)
    say(f"run {run.name}: stage {recipe.stage} of {recipe.model}, {recipe.steps} steps, from {init_from}")
    storage.write_bytes(run.recipe, config.dump(replace(recipe, run=run.name, init_from=init_from)).encode())

    start_ray()
    corpora = storage.join(recipe.home, "corpora")
    missing = [name for name in recipe.mixture if not storage.names(storage.join(corpora, name))]
    if recipe.scenes is not None and missing:
        prepare_scenes(corpora, missing, recipe.scenes.rows, recipe.scenes.size, seed=0)
    prepare = load_processor(recipe, init_from).row
    datasets = {
        name: prepared(corpora, name, prepare, PromptError, run.quarantine, recipe.ingest) for name in recipe.mixture
    }
    settings = {"recipe": recipe, "run": run, "init_from": init_from}
    launch(train, settings, datasets, recipe.workers, run.parent, run.name, recipe.keep_checkpoints)
    print(json.dumps(summary(recipe, run)))


def train(settings: dict[str, Any]) -> None:
    """The loop of one worker."""
    recipe, run = settings["recipe"], settings["run"]
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()

    pipeline = load_pipeline(recipe, settings["init_from"])
    module = staged(pipeline, recipe)
    engine = Engine(module, recipe.engine, recipe.optimizer, recipe.steps, exact=module.exact)
    resumed = checkpoints.resume(engine)
    done = resumed["step"] if resumed else 0
    earlier = resumed["rows"] if resumed else []
    progress = Progress(steps=recipe.steps, rows=earlier, stream=sys.stderr if rank == 0 else None)
    batches = batches_of(recipe, load_processor(recipe, settings["init_from"]), skip=done)

    for step in range(done + 1, recipe.steps + 1):
        torch.manual_seed(zlib.crc32(f"{recipe.seed} {step} {rank}".encode()))
        for _ in range(recipe.engine.accumulate):
            waiting = time.perf_counter()
            batch = next(batches).to(engine.device)
            waited_s = time.perf_counter() - waiting
            losses = engine.model(batch)
            engine.step(losses.total)
            progress.add(dict(losses.named()), samples=len(batch.ids) * workers, waited_s=waited_s)
        saving = step % recipe.save_every == 0 or step == recipe.steps
        if saving or step % recipe.log_every == 0:
            row = progress.report(step, engine.learning_rate, engine.grad_norm, engine.mean)
            if saving:
                checkpoints.save(engine, {"step": step, "rows": progress.rows}, row)
            else:
                ray.train.report(row)
            if rank == 0:
                storage.write_bytes(run.metrics, to_lines(progress.rows))

    with engine.gathered():
        if rank == 0:
            storage.write_bytes(run.metrics, to_lines(progress.rows))
            with storage.writing_folder(run.weights, last="model_index.json") as folder:
                pipeline.save_pretrained(folder)
    torch.distributed.barrier()


def staged(pipeline: FireEditPipeline, recipe: TrainRecipe) -> StagedFireEdit:
    """The parts of the pipeline that the stage runs, as the stage trains them."""
    stage = STAGES[recipe.stage]
    model = FireEdit(**{name: getattr(pipeline, name) for name in stage.parts})
    if recipe.gradient_checkpointing:
        model.vlm.llm.activation_checkpointing_enable({"use_reentrant": False})
        if model.unet is not None:
            model.unet.enable_gradient_checkpointing()
    return StagedFireEdit(model, stage, preset(recipe.model).schedule, recipe.dropout)


def batches_of(recipe: TrainRecipe, processor: Processor, skip: int) -> Iterator[Batch]:
    """This worker's batches without end; `skip` optimiser steps of the mixture's sequence are passed over."""
    size = recipe.engine.micro_batch
    epochs = {name: epochs_of(ray.train.get_dataset_shard(name), recipe.seed, recipe.ingest) for name in recipe.mixture}
    mixture = Mixture(recipe.mixture, epochs, recipe.seed)
    mixture.skip(skip * recipe.engine.accumulate * size)
    rows = iter(mixture)
    while True:
        yield processor.collate(list(islice(rows, size)))


def read_recipe(arguments: list[str]) -> TrainRecipe:
    """The recipe that the command line asks for; exits with a sentence if there is none."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", type=int, choices=sorted(STAGES), required=True)
    parser.add_argument("--config", default="nano", help="nano, paper, or the path of a recipe (default: nano)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as steps=50 optimizer.lr=1e-4")
    asked = parser.parse_args(arguments)
    name = f"{asked.config}-stage{asked.stage}" if asked.config in ("nano", "paper") else asked.config
    try:
        recipe = config.load(TrainRecipe, name, asked.overrides)
        check_weights(recipe.mixture)
        if recipe.stage != asked.stage:
            raise config.RecipeError(f"{name}: this is a recipe of stage {recipe.stage}; write --stage {recipe.stage}")
    except ValueError as error:
        parser.exit(2, f"{error}\n")
    return replace(recipe, home=storage.absolute(recipe.home))


def refuse_another_run(recipe: TrainRecipe, run: runs.Run) -> None:
    """Exit with a sentence if a run of this name is there and is not one that this recipe can go on with."""
    if not storage.exists(run.recipe):
        return
    before = yaml.safe_load(storage.read_bytes(run.recipe))
    asked = yaml.safe_load(config.dump(recipe))
    for key in ("model", "stage", "workers", "engine", "mixture"):
        if before[key] != asked[key]:
            sys.exit(f"run {run.name} has {key} {before[key]}, not {asked[key]}; write another run=NAME")


def starting_weights(recipe: TrainRecipe, run: runs.Run) -> str:
    """A pipeline folder, or FRESH; a run that goes on starts from what it started from.

    Raises:
        SystemExit: the folder holds no pipeline, or no run of the stage before has been finished.
    """
    if recipe.init_from not in ("auto", FRESH):
        folder = storage.absolute(recipe.init_from)
        if not storage.exists(storage.join(folder, "model_index.json")):
            sys.exit(f"init_from: {folder} holds no model_index.json; write a folder that a run or convert.py saved")
        return folder
    if recipe.init_from == FRESH:
        return FRESH
    if storage.exists(run.recipe):
        return yaml.safe_load(storage.read_bytes(run.recipe))["init_from"]
    before = runs.latest_finished(recipe.home, recipe.model, recipe.stage - 1)
    if before is not None:
        return before.weights
    if recipe.model == "nano":
        if (NANO / "model_index.json").is_file():
            return str(NANO)
        say(f"no finished run of stage {recipe.stage - 1} under {recipe.home}/runs and none shipped: fresh weights")
        return FRESH
    sys.exit(
        f"{recipe.home}/runs holds no finished run of {recipe.model} stage {recipe.stage - 1}; "
        f"run that stage first, or write init_from=FOLDER of a saved pipeline"
    )


def load_pipeline(recipe: TrainRecipe, init_from: str) -> FireEditPipeline:
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    if init_from == FRESH:
        return FireEditPipeline.fresh_nano(recipe.seed)
    with storage.reading_folder(init_from) as folder:
        return FireEditPipeline.from_pretrained(folder, dtype=DTYPES[recipe.engine.precision])


def load_processor(recipe: TrainRecipe, init_from: str) -> Processor:
    """What makes rows and batches; needs the tokenizers of the weights, not the weights."""
    tokenizers = {}
    for name in ("vlm_tokenizer", "tokenizer"):
        with storage.reading_folder(storage.join(str(NANO) if init_from == FRESH else init_from, name)) as folder:
            tokenizers[name] = AutoTokenizer.from_pretrained(folder)
    return Processor(**tokenizers, config=ProcessorConfig.of(preset(recipe.model)))


def summary(recipe: TrainRecipe, run: runs.Run) -> dict[str, Any]:
    """What the run came to; the last line of this job."""
    rows = from_lines(storage.read_bytes(run.metrics))
    window = max(WINDOW, recipe.log_every)
    return {
        "run": run.name,
        "stage": recipe.stage,
        "step": rows[-1]["step"],
        "first": window_mean(rows, 0, window),
        "last": window_mean(rows, recipe.steps - window, recipe.steps),
        "samples_per_s": window_mean(rows, 0, recipe.steps)["samples_per_s"],
        "set_aside": set_aside(run.quarantine),
        "weights": run.weights,
    }


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
