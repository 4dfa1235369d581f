"""Validation of a checkpoint: losses of held-out samples, and a sheet of held-out edits, the same ones every time."""

import io
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice, zip_longest
from typing import Any

import numpy as np
import torch
from PIL import Image

from fireedit.jobs.training.recipe import TrainRecipe
from fireedit.jobs.training.samples import COLORS
from fireedit.jobs.training.stage_task import StageSettings, trained_pipeline
from fireedit.models.model import FireEdit
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.processor import InputRow, Processor
from fireedit.models.stages import STAGES, DropoutConfig
from fireedit.models.tokens import PromptError
from fireedit.platform import storage
from fireedit.platform.console import say
from fireedit.platform.data.held_out import prepare_held_out, read_held_out
from fireedit.platform.data.ingest import stacked
from fireedit.platform.data.sample import Sample
from fireedit.platform.data.shards import ShardsError, batched
from fireedit.platform.images import decode
from fireedit.platform.sheet import Card, Panel, card_sheet
from fireedit.platform.train import checkpoints, validation
from fireedit.platform.train.checkpoints import CheckpointFiles
from fireedit.platform.train.progress import Row
from fireedit.platform.train.runs import Run
from fireedit.platform.train.writers import TensorBoard

LOSS = f"{validation.PREFIX}loss"
"""Name of the loss, and beginning of those of single corpora."""
COLUMNS, SIDE = 3, 192
"""Cards in a row of a sheet, and pixels of a picture's side."""
NO_DROPOUT = DropoutConfig(text=0.0, image=0.0, both=0.0)

Held = tuple[Sample, InputRow]
"""Held-out sample, and what the model reads of it."""


def prepare(recipe: TrainRecipe) -> None:
    """Make the held-out samples of a run that is validated, once for its home, and name corpora that have none.

    Raises:
        ShardsError: shards of a held-out split that is published are missing, or no corpus has one.
    """
    if recipe.validate_every is None:
        return
    size = recipe.scenes.size if recipe.scenes else recipe.model.vae.sample_size
    without = prepare_held_out(recipe.home, recipe.mixture, recipe.validation.rows, size)
    if len(without) == len(recipe.mixture):
        raise ShardsError(
            f"validation: no held-out split of {', '.join(without)} is published; write validate_every=null"
        )
    if without:
        say(f"validation leaves out {', '.join(without)}: no held-out split of them is published")


def validate(address: str, settings: StageSettings) -> Row:
    """Compute a checkpoint's losses on held-out samples and draw its sheet, with averaged weights if the run has them.

    Noise and timesteps are the samples' own and nothing is dropped, so that a checkpoint has the same losses each time.
    They go to the run's validation.jsonl and to TensorBoard.

    Returns:
        Step, `validation/loss` by the shares of the mixture, and `validation/loss/CORPUS`.
    """
    recipe, step = settings.recipe, checkpoints.step_of(address)
    pipeline = staged_pipeline(address, settings)
    held = held_out(recipe, pipeline)
    edits = sheet_samples(held, recipe.validation.pictures)
    in_bf16 = recipe.engine.precision == "bf16"
    with torch.no_grad(), torch.autocast(pipeline.device.type, torch.bfloat16, enabled=in_bf16):
        row = {"step": step, **corpus_losses(recipe, pipeline, held)}
        sheet = sample_sheet(pipeline, edits, step, recipe.validation.sampler_steps) if edits else None
    write(settings.run, row, sheet)
    return row


def staged_pipeline(address: str, settings: StageSettings) -> FireEditPipeline:
    """Load the weights of a checkpoint, with the parts that the stage runs and no others."""
    recipe = settings.recipe
    gpus = recipe.validation.gpus if settings.on_ray else recipe.workers.gpus
    with CheckpointFiles.open(address) as files:
        averaged, device = recipe.ema > 0, "cuda" if gpus else "cpu"
        pipeline = trained_pipeline(recipe, settings.init_from, files, averaged, device)
    parts = STAGES[recipe.stage].without(recipe.without).parts
    pipeline.register_modules(**{name: None for name in FireEdit.__annotations__ if name not in parts})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def held_out(recipe: TrainRecipe, pipeline: FireEditPipeline) -> dict[str, list[Held]]:
    """Read the first held-out samples of every corpus that has any, but for those with too long a text."""
    processor = Processor(pipeline.vlm_tokenizer, pipeline.tokenizer, recipe.model)
    held = {
        name: list(islice(_readable(processor, read_held_out(recipe.home, name)), recipe.validation.rows))
        for name in sorted(recipe.mixture)
    }
    return {name: samples for name, samples in held.items() if samples}


def corpus_losses(recipe: TrainRecipe, pipeline: FireEditPipeline, held: Mapping[str, Sequence[Held]]) -> Row:
    """Compute the mean loss of each corpus's samples, and that of all by the corpora's shares of the mixture."""
    undropped = replace(recipe, dropout=NO_DROPOUT, gradient_checkpointing=False)
    staged = undropped.staged(pipeline).eval()
    processor = Processor(pipeline.vlm_tokenizer, pipeline.tokenizer, recipe.model)
    means = {}
    for name, samples in held.items():
        losses = []
        for some in batched(samples, recipe.engine.micro_batch):
            batch = processor.batch(stacked([row for _, row in some]))
            seeds = torch.tensor([_seed(sample) for sample, _ in some])
            losses.append(staged(replace(batch, seeds=seeds).to(pipeline.device)).each)
        means[name] = torch.cat(losses).mean().item()
    shares = {name: recipe.mixture[name] for name in means}
    mean = sum(shares[name] * loss for name, loss in means.items()) / sum(shares.values())
    return {LOSS: mean} | {f"{LOSS}/{name}": loss for name, loss in means.items()}


def sheet_samples(held: Mapping[str, Sequence[Held]], count: int) -> list[Sample]:
    """Choose the first edits, in turn from each corpus; captions of stage 1 give none."""
    edits = [[sample for sample, _ in samples if sample.task == "edit"] for samples in held.values()]
    in_turn = (sample for turn in zip_longest(*edits) for sample in turn if sample is not None)
    return list(islice(in_turn, count))


def sample_sheet(
    pipeline: FireEditPipeline, samples: Sequence[Sample], step: int, sampler_steps: int | None
) -> Image.Image:
    """Edit the samples' sources, each from its own seed, and draw both side by side."""
    output: Any = pipeline(
        [sample.instruction for sample in samples],
        [sample.source for sample in samples],
        generator=[torch.Generator().manual_seed(_seed(sample)) for sample in samples],
        size="canvas",
        num_inference_steps=sampler_steps,
    )
    cards = [_card(sample, edited, step) for sample, edited in zip(samples, output.images, strict=True)]
    return card_sheet(cards, min(COLUMNS, len(cards)), SIDE)


def write(run: Run, row: Row, sheet: Image.Image | None) -> None:
    """Add a validation to the run's file, to TensorBoard and to its sheets, and tell it in a line."""
    step, told = int(row["step"]), ""
    board = TensorBoard(storage.join(run.tensorboard, "validation"), step - 1)  # a folder of its own: another process
    board.write(row)
    if sheet is not None:
        png, path = io.BytesIO(), storage.join(run.samples, f"{checkpoints.name_of(step)}.png")
        sheet.save(png, "PNG")
        storage.write_bytes(path, png.getvalue())
        board.picture("samples", step, sheet)
        told = f"; edits: {path}"
    board.close()
    validation.record(run, row)
    say(f"validation of step {step}: loss {row[LOSS]:.4f}{told}")


def _readable(processor: Processor, samples: Iterator[Sample]) -> Iterator[Held]:
    for sample in samples:
        pictures = {"source": sample.source, "target": sample.target}
        decoded: dict[str, Any] = {name: decode(data) if data else None for name, data in pictures.items()}
        try:
            yield sample, processor.row({**sample.row(), **decoded})
        except PromptError:
            continue


def _seed(sample: Sample) -> int:
    """Seed of a sample's noise and timestep, and of its picture on the sheet."""
    return zlib.crc32(sample.id.encode())


def _card(sample: Sample, edited: Image.Image, step: int) -> Card:
    return Card(
        title=sample.corpus,
        note=f"step {step}",
        color=COLORS["edit"],
        words=sample.instruction,
        panels=[Panel(image=decode(sample.source)), Panel(image=np.asarray(edited))],
    )
