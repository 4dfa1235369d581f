"""A stage as a task of the training loop: its module, its batches and its records."""

import zlib
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fireedit.jobs.training.loading import load_pipeline
from fireedit.jobs.training.recipe import TrainRecipe
from fireedit.models.draws import sample_seeds
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.processor import Batch, Processor
from fireedit.models.speed import attention_in_words, compile_parts
from fireedit.models.stages import Losses
from fireedit.models.tokens import PromptError
from fireedit.models.weights import fingerprint
from fireedit.platform import storage
from fireedit.platform.console import say
from fireedit.platform.data.ingest import Corpora, IngestConfig, ReadBatch, Share, Tasks, prepared_batches
from fireedit.platform.data.pool_tasks import PoolTasks
from fireedit.platform.data.shards import ShardsError
from fireedit.platform.train import checkpoints
from fireedit.platform.train.checkpoints import AVERAGES, WEIGHTS, CheckpointFiles
from fireedit.platform.train.devices import peak_flops
from fireedit.platform.train.engine import Engine, build_engine
from fireedit.platform.train.ledger import Ledger
from fireedit.platform.train.loop import Ended, Loop
from fireedit.platform.train.optimizer import named_trained
from fireedit.platform.train.progress import CorpusTally, Progress, Row
from fireedit.platform.train.runs import Run
from fireedit.platform.train.session import Session
from fireedit.platform.train.writers import ConsoleLine, MetricsFile, RayMetrics, TensorBoard, Writer


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """One sitting of a run, as every worker gets it."""

    recipe: TrainRecipe
    run: Run
    init_from: str
    """Pipeline folder to start from, or FRESH."""
    tasks: Callable[[ReadBatch, IngestConfig], Tasks] = PoolTasks
    """Processes that read and decode."""
    sample_flops: float | None = None
    """Operations of a sample's forward and backward pass; None: no MFU is reported."""
    on_ray: bool = False
    """Report to Ray's metrics."""


@dataclass
class NumberedBatch:
    """Batch with its number in the whole run."""

    number: int
    batch: Batch

    def to(self, device: torch.device) -> "NumberedBatch":
        return NumberedBatch(self.number, self.batch.to(device))


class StageTask:
    """Batches, losses and records of a stage on one worker."""

    def __init__(self, settings: StageSettings, session: Session, pipeline: FireEditPipeline):
        recipe = settings.recipe
        self.recipe, self.run = recipe, settings.run
        self.rank, self.workers = session.rank, session.workers
        self.processor = Processor(pipeline.vlm_tokenizer, pipeline.tokenizer, recipe.model, recipe.ingest.encoded)
        self.corpora = open_corpora(recipe)
        require_same_encoders(self.corpora, pipeline)
        self._tasks = settings.tasks
        self.ledger = Ledger(settings.run.ledger, self.rank)
        self.tally = CorpusTally(self.corpora.sizes, {})

    def batches(self, position: Mapping[str, Any]) -> Generator[NumberedBatch]:
        """Read this worker's batches from a draw of the run on; endless if only the clock ends it."""
        recipe, start = self.recipe, position.get("draws", 0)
        self.tally = CorpusTally(self.corpora.sizes, position.get("drawn", {}))
        stop = None if recipe.steps is None else recipe.steps * recipe.samples_per_step
        share = Share(self.rank, self.workers, recipe.engine.micro_batch, start=start, stop=stop)
        side = max(recipe.model.vision.image_size, recipe.model.vae.sample_size)
        prepare, quarantine = self.processor.row, self.run.quarantine
        rows = prepared_batches(self.corpora, share, prepare, PromptError, quarantine, side, self._tasks)
        with closing(rows) as prepared:
            for ready in prepared:
                draws = range(ready.number * share.batch, (ready.number + 1) * share.batch)
                batch = replace(self.processor.batch(ready.columns), seeds=sample_seeds(recipe.seed, draws))
                yield NumberedBatch(ready.number, batch)

    def losses(self, engine: Engine, batch: NumberedBatch) -> Losses:
        torch.manual_seed(zlib.crc32(f"{self.recipe.seed} {batch.number}".encode()))  # LoRA's dropout
        return engine.model(batch.batch)

    def record(self, step: int, batch: NumberedBatch, losses: Losses) -> int:
        self.tally.add(batch.batch.corpora, losses.each)
        self.ledger.add(step, batch.number, batch.batch.ids)
        return len(batch.batch.ids)

    def figures(self, total: Callable[[Tensor], Tensor]) -> Row:
        return self.tally.report(total)

    def position(self, step: int) -> dict[str, Any]:
        return {"draws": step * self.recipe.samples_per_step, "drawn": self.tally.drawn}

    def saving(self, step: int, engine: Engine) -> None:
        self.ledger.write(step)


def train_stage(session: Session, settings: StageSettings) -> Ended:
    """Train on one worker to the end of the sitting; the first worker saves the weights of a finished run."""
    recipe, run = settings.recipe, settings.run
    pipeline = load_pipeline(recipe, settings.init_from)
    task, module = StageTask(settings, session, pipeline), recipe.staged(pipeline)
    if session.rank == 0:
        say(f"attention: {attention_in_words(module.model)}; compiled: {', '.join(recipe.compile) or 'nothing'}")
    compile_parts(module.model, recipe.compile)
    config = replace(recipe.engine, accumulate=recipe.passes // session.workers)
    engine = build_engine(module, config, recipe.optimizer, module.exact, recipe.ema)

    def writers(start: int) -> list[Writer]:
        more: list[Writer] = [RayMetrics(run.name)] if settings.on_ray else []
        return [ConsoleLine(recipe.steps), MetricsFile(run.metrics, start), TensorBoard(run.tensorboard, start), *more]

    progress = Progress(session.workers, peak_flops(engine.device), settings.sample_flops)
    ended = Loop(task, engine, session, recipe.loop, writers, progress, run.traces).train()
    if not ended.stopped:
        if session.rank == 0:
            save_weights(settings)
        session.control.barrier()
    return ended


def train_stage_on_ray(session: Session, config: dict[str, Any]) -> None:
    """Train on a worker of Ray Train."""
    from fireedit.platform.data.ray_tasks import RayTasks  # runs without Ray have no use for it

    train_stage(session, replace(config["settings"], on_ray=True, tasks=RayTasks))


def save_weights(settings: StageSettings) -> None:
    """Save the pipeline with the newest checkpoint's weights, averaged ones if the run has them."""
    address = checkpoints.latest(settings.run.folder)
    assert address is not None, f"{settings.run.folder}: a finished run has a checkpoint"
    with CheckpointFiles.open(address) as files:
        pipeline = trained_pipeline(settings.recipe, settings.init_from, files, averaged=settings.recipe.ema > 0)
        with storage.writing_folder(settings.run.weights, last="model_index.json") as folder:
            pipeline.save_pretrained(folder)


def trained_pipeline(
    recipe: TrainRecipe, init_from: str, files: CheckpointFiles, averaged: bool, device: str = "cpu"
) -> FireEditPipeline:
    """Load the pipeline that a run starts from with the trained weights of a checkpoint, float32, in their place.

    Args:
        averaged: take the running averages.
        device: of the stage's parts.
    """
    pipeline = load_pipeline(recipe, init_from, device)
    parameters = dict(named_trained(recipe.staged(pipeline)))
    for name, values in files.tensors(AVERAGES if averaged else WEIGHTS):
        parameters[name].data = values.to(device)
    return pipeline


def open_corpora(recipe: TrainRecipe) -> Corpora:
    """Open the shards of the mixture.

    Raises:
        ShardsError: some are missing, or held out of training.
    """
    return Corpora(storage.join(recipe.home, "shards"), recipe.mixture, recipe.seed, recipe.ingest)


def require_same_encoders(corpora: Corpora, pipeline: FireEditPipeline) -> None:
    """Raise ShardsError where other weights made the stored encodings than those that this run starts from."""
    if not corpora.config.encoded:
        return
    encoders = {"latents": pipeline.vae, "text": pipeline.text_encoder}
    fingerprints = {name: fingerprint(encoder) for name, encoder in encoders.items()}
    for corpus, index in corpora.indices.items():
        for name, encoding in index.encodings.items():
            if encoding.weights != fingerprints[name]:
                raise ShardsError(
                    f"{corpus}: its {name} were made by weights {encoding.weights}, this run starts from "
                    f"{fingerprints[name]}; run: python jobs/prepare.py shards --encode {name} --weights with the "
                    "folder of init_from"
                )
