"""Training loop of a stage, as each of Ray Train's workers runs it."""

import time
import zlib
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any

import diffusers
import ray.train
import torch
import transformers

from fireedit.jobs.training.recipe import FRESH, TrainRecipe
from fireedit.jobs.training.sizes import apply_settings, resize_lora
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.processor import Batch, Processor
from fireedit.models.stages import PARTS_OF, STAGES
from fireedit.models.tokens import PromptError
from fireedit.models.weights import fingerprint
from fireedit.platform import storage
from fireedit.platform.data.ingest import Corpora, Share, prepared_batches
from fireedit.platform.data.shards import ShardsError
from fireedit.platform.train import checkpoints
from fireedit.platform.train.clock import Clock
from fireedit.platform.train.engine import Engine
from fireedit.platform.train.ledger import Ledger
from fireedit.platform.train.progress import CorpusTally, Progress, to_lines
from fireedit.platform.train.runs import Run

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class StagePosition:
    """Position of a run that a checkpoint holds beside the engine's state."""

    step: int = 0
    draws: int = 0
    """Draws of the mixture's sequence, on all workers together."""
    drawn: dict[str, int] = field(default_factory=dict)
    """Rows of each corpus."""
    rows: list[dict[str, float]] = field(default_factory=list)
    """Reports so far."""
    elapsed_s: float = 0.0
    """Seconds of training, over all sittings."""


def train_stage(settings: dict[str, Any]) -> None:
    """Train on one worker to the end of the run, and save the weights."""
    trainer = StageTrainer(**settings)
    trainer.train()
    trainer.save_weights()


class StageTrainer:
    """Engine, batches and records of a run on one worker.

    Args:
        init_from: pipeline folder to start from, or FRESH.
    """

    def __init__(self, recipe: TrainRecipe, run: Run, init_from: str):
        self.recipe, self.run = recipe, run
        context = ray.train.get_context()
        self.rank, self.workers = context.get_world_rank(), context.get_world_size()
        self.pipeline = pipeline = load_pipeline(recipe, init_from)
        tokenizers = pipeline.vlm_tokenizer, pipeline.tokenizer
        self.processor = Processor(*tokenizers, recipe.model, recipe.ingest.encoded)
        self.corpora = open_corpora(recipe)
        require_same_encoders(self.corpora, pipeline)
        module = recipe.staged(pipeline)
        self.engine = Engine(module, recipe.engine, recipe.optimizer, exact=module.exact, ema=recipe.ema)
        self.start = StagePosition(**checkpoints.resume(self.engine) or {})
        self.step = self.start.step
        self.clock = Clock(recipe.steps, recipe.minutes, self.start.elapsed_s, self.engine.first_workers)
        self.progress = Progress(steps=recipe.steps or 0, rows=self.start.rows, shown=self.rank == 0)
        self.tally, self.ledger = CorpusTally(self.corpora.sizes, self.start.drawn), Ledger(run.ledger, self.rank)

    def train(self) -> None:
        """Take steps until the clock ends the run; report and save at the recipe's intervals and at the end."""
        with closing(self.batches()) as batches:
            while not self.clock.over(self.step):
                self.step += 1
                for _ in range(self.recipe.engine.accumulate):
                    self.learn(batches)
                self.clock.tick()
                if self.step % self.recipe.save_every == 0 or self.clock.over(self.step):
                    self.save()
                elif self.step % self.recipe.log_every == 0:
                    self.report()

    def learn(self, batches: Iterator[tuple[int, Batch]]) -> None:
        """Run forward and backward on the next batch; the last of a step also updates the weights."""
        waiting = time.perf_counter()
        number, batch = next(batches)
        self.clock.start()  # the first batch has come: reading is running
        batch = batch.to(self.engine.device)
        waited_s = time.perf_counter() - waiting
        torch.manual_seed(zlib.crc32(f"{self.recipe.seed} {number}".encode()))  # noise and dropout go with samples
        losses = self.engine.model(batch)
        self.engine.step(losses.total, self.clock.done(self.step))
        self.progress.add(dict(losses.named()), samples=len(batch.ids) * self.workers, waited_s=waited_s)
        self.tally.add(batch.corpora, losses.each)
        self.ledger.add(self.step, number, batch.ids)

    def report(self) -> dict[str, float]:
        """Average the figures over the workers, print them and write them down."""
        engine, by_corpus = self.engine, self.tally.report(self.engine.total)
        row = self.progress.report(
            self.step, engine.learning_rate, engine.grad_norm, engine.mean, by_corpus, left_s=self.clock.left_s
        )
        self.write_metrics()
        return row

    def save(self) -> None:
        """Report, and save a checkpoint after the ledger of its samples."""
        row = self.report()
        self.ledger.write(self.step)
        draws = self.start.draws + (self.step - self.start.step) * self.recipe.samples_per_step
        position = StagePosition(self.step, draws, self.tally.drawn, self.progress.rows, self.clock.elapsed_s)
        checkpoints.save(self.engine, asdict(position), row)

    def write_metrics(self) -> None:
        """Write all reports, on the first worker."""
        if self.rank == 0:
            storage.write_bytes(self.run.metrics, to_lines(self.progress.rows))

    def save_weights(self) -> None:
        """Save the pipeline with the trained weights, on the first worker while the others wait."""
        self.write_metrics()
        with self.engine.gathered():
            if self.rank == 0:
                with storage.writing_folder(self.run.weights, last="model_index.json") as folder:
                    self.pipeline.save_pretrained(folder)
        torch.distributed.barrier()

    def batches(self) -> Generator[tuple[int, Batch]]:
        """Read this worker's batches, each with its number in the whole run; endless if only the clock ends it."""
        recipe, start = self.recipe, self.start
        stop = None if recipe.steps is None else start.draws + (recipe.steps - start.step) * recipe.samples_per_step
        share = Share(self.rank, self.workers, recipe.engine.micro_batch, start=start.draws, stop=stop)
        side = max(recipe.model.vision.image_size, recipe.model.vae.sample_size)
        rows = prepared_batches(self.corpora, share, self.processor.row, PromptError, self.run.quarantine, side)
        with closing(rows) as columns:
            yield from zip(share.batches(), map(self.processor.batch, columns), strict=True)


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


def load_pipeline(recipe: TrainRecipe, init_from: str) -> FireEditPipeline:
    """Load the pipeline to train, without the parts that an ablation leaves out.

    Raises:
        ValueError: the saved pipeline lacks a part that the stage runs.
    """
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    if init_from == FRESH:
        pipeline = FireEditPipeline.fresh_nano(recipe.seed, recipe.model)
    else:
        with storage.reading_folder(init_from) as folder:
            pipeline = FireEditPipeline.from_pretrained(folder, dtype=DTYPES[recipe.engine.precision])
    pipeline.register_modules(**dict.fromkeys(part for idea in recipe.without for part in PARTS_OF[idea]))
    for part in STAGES[recipe.stage].without(recipe.without).parts:
        if getattr(pipeline, part) is None:
            raise ValueError(f"{init_from} has no {part}; write without=[...] as the run did that saved it")
    resize_lora(pipeline, recipe.model, recipe.seed)
    apply_settings(pipeline, recipe.model)
    return pipeline
