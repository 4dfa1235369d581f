"""Train one stage: `python jobs/train.py --stage N [--config nano|paper|paper-771k|FILE] [key=value ...]`.

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
from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Literal

import diffusers
import ray
import ray.train
import torch
import transformers
import yaml
from pydantic import Field, PositiveFloat, PositiveInt
from transformers import AutoTokenizer

from fireedit.jobs.training.recipe import CONFIGS
from fireedit.models.model import NANO, FireEdit, preset
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.processor import Batch, Processor, ProcessorConfig
from fireedit.models.stages import PARTS_OF, STAGES, DropoutConfig, Idea, ObjectiveConfig, StagedFireEdit
from fireedit.models.tokens import PromptError
from fireedit.models.weights import fingerprint
from fireedit.platform import config, storage
from fireedit.platform.cluster import start_ray
from fireedit.platform.data.conversion import TooManyBadRowsError, UnreadablePartError
from fireedit.platform.data.corpora.rows import CorpusError
from fireedit.platform.data.ingest import Corpora, IngestConfig, Share, prepared_batches, set_aside
from fireedit.platform.data.mixture import MixtureError, check_weights
from fireedit.platform.data.preparation import ScenesConfig, prepare_missing
from fireedit.platform.data.shards import ShardsError
from fireedit.platform.train import checkpoints, runs
from fireedit.platform.train.clock import Clock
from fireedit.platform.train.engine import Engine, EngineConfig, check_engine
from fireedit.platform.train.launcher import WorkersConfig, launch
from fireedit.platform.train.ledger import Ledger
from fireedit.platform.train.optimizer import OptimizerConfig
from fireedit.platform.train.progress import Progress, from_lines, to_lines
from fireedit.platform.train.summary import summarize
from fireedit.platform.train.tally import Tally

FRESH = "fresh"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class TrainRecipe:
    """Everything that one run of one stage depends on."""

    model: Literal["nano", "paper"]
    """Which sizes."""
    stage: Literal[1, 2, 3]
    steps: PositiveInt | None = None
    """Optimiser steps after which the run ends."""
    minutes: PositiveFloat | None = None
    """Minutes of training, over all sittings, after which it ends; with `steps` too, at what comes first.
    A run that was broken off is saved as it is by going on with fewer minutes than it has had."""
    optimizer: OptimizerConfig
    engine: EngineConfig
    workers: WorkersConfig
    mixture: Mapping[str, float]
    """Corpus to share."""
    ingest: IngestConfig = field(default_factory=IngestConfig)
    dropout: DropoutConfig = field(default_factory=DropoutConfig)
    scenes: ScenesConfig | None = None
    """Procedural scenes to write, and turn into shards, where a corpus has none; None asks for the real ones."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of the running average of the weights, which is what the run is saved as; 0 saves the last ones."""
    without: tuple[Idea, ...] = ()
    """Of the paper's ideas, those that an ablation leaves out; the pipeline is saved without their parts."""
    gradient_checkpointing: bool = False
    """Trade a second forward pass of LLM and UNet for their activations' memory."""
    init_from: str = "auto"
    """Weights to start from: a pipeline folder, `fresh`, or `auto`: the last finished run of the stage before."""
    home: str = field(default_factory=storage.home)
    """Folder or s3:// address of corpora, shards and runs."""
    run: str = ""
    """Name of the run; empty makes one of recipe and time. That of an unfinished run goes on with it."""
    seed: int = 0
    log_every: PositiveInt = 10
    save_every: PositiveInt = 500
    keep_checkpoints: PositiveInt = 2

    @property
    def samples_per_step(self) -> int:
        """Of all workers together."""
        return self.engine.micro_batch * self.engine.accumulate * self.workers.count

    @property
    def length(self) -> str:
        """When the run ends, in words."""
        ends = [f"{self.steps} steps" * bool(self.steps), f"{self.minutes:g} minutes" if self.minutes else ""]
        return " or ".join(end for end in ends if end)


def main() -> None:
    recipe = read_recipe(sys.argv[1:])
    run = runs.Run(recipe.home, recipe.run or runs.new_name(recipe.model, recipe.stage))
    refuse_another_run(recipe, run)
    if run.finished:
        say(f"run {run.name} is finished; write another run=NAME to train anew")
        print(json.dumps(summary(recipe, run)))
        return
    init_from = starting_weights(recipe, run)
    say(f"run {run.name}: stage {recipe.stage} of {recipe.model}, {recipe.length}, from {init_from}")
    storage.write_bytes(run.recipe, config.dump(replace(recipe, run=run.name, init_from=init_from)).encode())

    start_ray()
    try:
        prepare_missing(recipe.home, recipe.mixture, recipe.scenes, recipe.ingest.cpus_per_task)
        require_same_corpora(open_corpora(recipe), run)
    except (ShardsError, MixtureError, CorpusError, TooManyBadRowsError, UnreadablePartError) as error:
        sys.exit(f"train.py: {error}")
    settings = {"recipe": recipe, "run": run, "init_from": init_from}
    launch(train, settings, recipe.workers, run.parent, run.name, recipe.keep_checkpoints)
    print(json.dumps(summary(recipe, run)))


def train(settings: dict[str, Any]) -> None:
    """The loop of one worker."""
    recipe, run = settings["recipe"], settings["run"]
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()

    pipeline, processor = load_pipeline(recipe, settings["init_from"]), load_processor(recipe, settings["init_from"])
    corpora = open_corpora(recipe)
    require_same_encoders(corpora, pipeline)
    module = staged(pipeline, recipe)
    engine = Engine(module, recipe.engine, recipe.optimizer, exact=module.exact, ema=recipe.ema)
    at = Position(**checkpoints.resume(engine) or {})
    clock = Clock(recipe.steps, recipe.minutes, at.elapsed_s, engine.agreed)
    progress = Progress(steps=recipe.steps or 0, rows=at.rows, stream=sys.stderr if rank == 0 else None)
    tally, ledger, step = Tally(corpora.sizes, at.drawn), Ledger(run.ledger, rank), at.step

    with closing(batches_of(recipe, corpora, processor, at, rank, workers, run.quarantine)) as batches:
        while not clock.over(step):
            step += 1
            for _ in range(recipe.engine.accumulate):
                waiting = time.perf_counter()
                number, batch = next(batches)
                clock.start()  # reading has started up
                batch = batch.to(engine.device)
                waited_s = time.perf_counter() - waiting
                torch.manual_seed(zlib.crc32(f"{recipe.seed} {number}".encode()))  # noise and dropout go with samples
                losses = engine.model(batch)
                engine.step(losses.total, clock.done(step))
                progress.add(dict(losses.named()), samples=len(batch.ids) * workers, waited_s=waited_s)
                tally.add(batch.corpora, losses.each)
                ledger.add(step, number, batch.ids)
            clock.tick()
            saving = step % recipe.save_every == 0 or clock.over(step)
            if not saving and step % recipe.log_every:
                continue
            by_corpus = tally.report(engine.total)
            row = progress.report(
                step, engine.learning_rate, engine.grad_norm, engine.mean, by_corpus, left_s=clock.left_s
            )
            if saving:
                ledger.write(step)
                draws = at.draws + (step - at.step) * recipe.samples_per_step
                reached = Position(step, draws, tally.drawn, progress.rows, clock.elapsed_s)
                checkpoints.save(engine, asdict(reached), row)
            if rank == 0:
                storage.write_bytes(run.metrics, to_lines(progress.rows))

    with engine.gathered():
        if rank == 0:
            storage.write_bytes(run.metrics, to_lines(progress.rows))
            with storage.writing_folder(run.weights, last="model_index.json") as folder:
                pipeline.save_pretrained(folder)
    torch.distributed.barrier()


@dataclass(frozen=True)
class Position:
    """How far a run has come: what a checkpoint holds besides the engine's state."""

    step: int = 0
    draws: int = 0
    """Of the mixture's sequence, on all workers together."""
    drawn: dict[str, int] = field(default_factory=dict)
    """Rows of each corpus."""
    rows: list[dict[str, float]] = field(default_factory=list)
    """What was reported."""
    elapsed_s: float = 0.0
    """Seconds of training, in all sittings."""


def batches_of(
    recipe: TrainRecipe,
    corpora: Corpora,
    processor: Processor,
    at: Position,
    rank: int,
    workers: int,
    quarantine: str,
) -> Generator[tuple[int, Batch]]:
    """This worker's batches, each with its number in the whole run; without an end if only the clock ends it."""
    stop = None if recipe.steps is None else at.draws + (recipe.steps - at.step) * recipe.samples_per_step
    share = Share(rank, workers, recipe.engine.micro_batch, start=at.draws, stop=stop)
    side = max(processor.config.view_size, processor.config.canvas_size)
    with closing(prepared_batches(corpora, share, processor.row, PromptError, quarantine, side)) as columns:
        yield from zip(share.batches(), map(processor.batch, columns), strict=True)


def make_corpora(commands: list[list[str]]) -> list[str]:
    """Prepare what is missing for recipes, each given as this job's arguments; the corpora that they draw from."""
    start_ray()
    recipes = [read_recipe(arguments) for arguments in commands]
    for recipe in recipes:
        prepare_missing(recipe.home, recipe.mixture, recipe.scenes, recipe.ingest.cpus_per_task)
    return sorted({name for recipe in recipes for name in recipe.mixture})


def open_corpora(recipe: TrainRecipe) -> Corpora:
    """The shards of the mixture.

    Raises:
        ShardsError: some are missing, or held out of training.
    """
    return Corpora(storage.join(recipe.home, "shards"), recipe.mixture, recipe.seed, recipe.ingest)


def require_same_corpora(corpora: Corpora, run: runs.Run) -> None:
    """Write down what the run draws from; refuse to go on with a run that began with other shards.

    Raises:
        ShardsError: it did.
    """
    found = {name: {"rows": index.rows, "shards": index.fingerprint} for name, index in corpora.indices.items()}
    if not storage.exists(run.corpora):
        storage.write_bytes(run.corpora, json.dumps(found, indent=1).encode())
        return
    for name, before in json.loads(storage.read_bytes(run.corpora)).items():
        if found[name] != before:
            raise ShardsError(
                f"run {run.name} began with {before['rows']} rows of {name}; its shards have been made anew since, of "
                f"{found[name]['rows']}; write another run=NAME"
            )


def require_same_encoders(corpora: Corpora, pipeline: FireEditPipeline) -> None:
    """Refuse encodings that other weights made than those that this run would use.

    Raises:
        ShardsError: there are such.
    """
    if not corpora.config.encoded:
        return
    parts = {"latents": pipeline.vae, "text": pipeline.text_encoder}
    ours = {name: fingerprint(part) for name, part in parts.items()}
    for corpus, index in corpora.indices.items():
        for name, encoding in index.encodings.items():
            if encoding.weights != ours[name]:
                raise ShardsError(
                    f"{corpus}: its {name} were made by weights {encoding.weights}, this run starts from {ours[name]}; "
                    f"run: python jobs/prepare.py shards --encode {name} --weights with the folder of init_from"
                )


def staged(pipeline: FireEditPipeline, recipe: TrainRecipe) -> StagedFireEdit:
    """The parts of the pipeline that the stage runs, as the stage trains them."""
    stage = STAGES[recipe.stage].without(recipe.without)
    model = FireEdit(**{name: getattr(pipeline, name) for name in stage.parts})
    if recipe.gradient_checkpointing:
        model.vlm.llm.activation_checkpointing_enable({"use_reentrant": False})
        if model.unet is not None:
            model.unet.enable_gradient_checkpointing()
    return StagedFireEdit(model, stage, preset(recipe.model).schedule, recipe.dropout, recipe.objective)


def read_recipe(arguments: list[str]) -> TrainRecipe:
    """The recipe that the command line asks for; exits with a sentence if there is none."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", type=int, choices=sorted(STAGES), required=True)
    parser.add_argument("--config", default="nano", help="nano, paper, paper-771k, or a recipe's path (default: nano)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as steps=50 optimizer.lr=1e-4")
    asked = parser.parse_intermixed_args(arguments)
    name = asked.config if asked.config.endswith((".yaml", ".yml")) else f"{asked.config}-stage{asked.stage}"
    try:
        recipe = config.load(TrainRecipe, name, asked.overrides, CONFIGS)
        check_weights(recipe.mixture)
        if recipe.stage != asked.stage:
            raise config.RecipeError(f"{name}: this is a recipe of stage {recipe.stage}; write --stage {recipe.stage}")
        if recipe.steps is None and recipe.minutes is None:
            raise config.RecipeError(f"{name}: found no end of the run; write steps=N, minutes=M, or both")
        check_engine(recipe.engine, recipe.optimizer, recipe.ema)
    except ValueError as error:
        parser.exit(2, f"{error}\n")
    return replace(recipe, home=storage.absolute(recipe.home))


def refuse_another_run(recipe: TrainRecipe, run: runs.Run) -> None:
    """Exit with a sentence if a run of this name is there and is not one that this recipe can go on with."""
    if not storage.exists(run.recipe):
        return
    before = config.parse(TrainRecipe, yaml.safe_load(storage.read_bytes(run.recipe)), where=run.recipe)
    for key in ("model", "stage", "seed", "mixture", "without"):
        if getattr(before, key) != getattr(recipe, key):
            found, asked = getattr(before, key), getattr(recipe, key)
            sys.exit(f"run {run.name} has {key} {found}, not {asked}; write another run=NAME")
    if before.samples_per_step != recipe.samples_per_step:
        sys.exit(
            f"run {run.name} has {before.samples_per_step} samples a step, not {recipe.samples_per_step}; with "
            f"workers.count={recipe.workers.count} write an engine.micro_batch and engine.accumulate that make as many"
        )


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
        say(f"no finished run of stage {recipe.stage - 1} under {recipe.home}/runs: from what ships")
        return str(NANO)
    sys.exit(
        f"{recipe.home}/runs holds no finished run of {recipe.model} stage {recipe.stage - 1}; "
        f"run that stage first, or write init_from=FOLDER of a saved pipeline"
    )


def load_pipeline(recipe: TrainRecipe, init_from: str) -> FireEditPipeline:
    """The pipeline to train, without what an ablation leaves out; ValueError if its weights leave out more."""
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    if init_from == FRESH:
        pipeline = FireEditPipeline.fresh_nano(recipe.seed)
    else:
        with storage.reading_folder(init_from) as folder:
            pipeline = FireEditPipeline.from_pretrained(folder, dtype=DTYPES[recipe.engine.precision])
    pipeline.register_modules(**dict.fromkeys(part for idea in recipe.without for part in PARTS_OF[idea]))
    for part in STAGES[recipe.stage].without(recipe.without).parts:
        if getattr(pipeline, part) is None:
            raise ValueError(f"{init_from} has no {part}; write without=[...] as the run did that saved it")
    return pipeline


def load_processor(recipe: TrainRecipe, init_from: str) -> Processor:
    """What makes rows and batches; needs the tokenizers of the weights, not the weights."""
    tokenizers = {}
    for name in ("vlm_tokenizer", "tokenizer"):
        with storage.reading_folder(storage.join(str(NANO) if init_from == FRESH else init_from, name)) as folder:
            tokenizers[name] = AutoTokenizer.from_pretrained(folder)
    return Processor(**tokenizers, config=ProcessorConfig.of(preset(recipe.model), recipe.ingest.encoded))


def summary(recipe: TrainRecipe, run: runs.Run) -> dict[str, Any]:
    """What the run came to; the last line of this job."""
    figures = summarize(from_lines(storage.read_bytes(run.metrics)), recipe.mixture, recipe.log_every)
    aside = {"set_aside": set_aside(run.quarantine), "weights": run.weights}
    return {"run": run.name, "stage": recipe.stage, **figures, **aside}


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
