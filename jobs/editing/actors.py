"""Actors of the stages of many edits, as Ray Data calls them: a batch of rows in, the same rows with results out."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from fireedit.jobs.editing import pictures
from fireedit.jobs.editing.manifest import Record
from fireedit.jobs.editing.pools import PoolConfig, PoolsConfig
from fireedit.jobs.editing.sources import EditRow, Group, Sources
from fireedit.models.checkpoint_files import quiet_loading
from fireedit.models.editors.editor import EditorName, load_editor
from fireedit.models.layers.component import DTYPES
from fireedit.models.model import Percepts
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.settings import PaintSettings
from fireedit.platform import images, storage
from fireedit.platform.provenance import Provenance
from fireedit.platform.restoration import Edit


@dataclass
class Work(EditRow):
    """Row on its way through the stages; each takes out what no later one reads."""

    canvas: np.ndarray | None = None
    """Source, uint8 RGB [S, S, 3]."""
    percepts: Percepts | None = None
    edit_tokens: Tensor | None = None
    """[1, 77, W]."""
    edit: Edit | None = None
    """Edited canvas."""
    painted: np.ndarray | None = None
    """Result of another system than FireEdit, uint8 RGB [H, W, 3]."""
    regions: int = 0
    """Regions that the VLM read."""
    seconds: float = 0.0
    """Seconds that the three stages took for it."""


@dataclass(frozen=True)
class Batch:
    """Rows that go through the stages together."""

    rows: Sequence[Work]

    def ready(self, size: int) -> Iterator[Sequence[Work]]:
        """Yield the rows that have not failed, `size` at a time."""
        rows = [row for row in self.rows if not row.error]
        yield from (rows[first : first + size] for first in range(0, len(rows), size))


@dataclass(frozen=True)
class Job:
    """Settings that the actors and tasks of a job share."""

    weights: str
    pools: PoolsConfig
    settings: PaintSettings
    fingerprint: str
    """Hash of the weights."""
    out: str
    file_format: images.Format
    size: str
    side: int
    """Pixels of the canvas."""
    editor: EditorName | None = None
    """Another system than FireEdit."""


@dataclass(frozen=True)
class Read:
    """Task that reads rows of a row group and decodes their pictures, batch by batch."""

    sources: Sources
    job: Job

    def __call__(self, item: Mapping[str, Any]) -> Iterator[dict[str, Batch]]:
        group, places = Group(**json.loads(item["group"])), [int(place) for place in item["places"]]
        for rows in self.sources.read(group, places, self.job.pools.rows_per_batch):
            yield {"batch": Batch([self._decoded(row) for row in rows])}

    def _decoded(self, row: EditRow) -> Work:
        work = Work(**vars(row))
        if not work.error:
            try:
                ground = pictures.ground_of(self.job.file_format) or images.GRAY
                picture = images.Picture(work.data)
                work.canvas = picture.pixels(ground) if self.job.editor else picture.canvas(self.job.side, ground)
            except images.ImageError as error:
                work.error, work.data = str(error), b""
        return work


class Stage:
    """Actor of one stage: its components on its device."""

    components: ClassVar[Sequence[str]]

    def __init__(self, job: Job, pool: PoolConfig):
        self.job, self.pool = job, pool
        self.pipeline = load(job, self.components)

    def __call__(self, item: dict[str, Batch]) -> dict[str, Batch]:
        torch.set_num_threads(self.pool.threads)
        batch = item["batch"]
        for rows in batch.ready(self.pool.batch):
            began = time.monotonic()
            self._run_apart(rows)
            for row in rows:
                row.seconds += (time.monotonic() - began) / len(rows)
        return {"batch": batch}

    def run(self, rows: Sequence[Work]) -> None:
        """Do the stage's part for some rows together."""
        raise NotImplementedError

    def _run_apart(self, rows: Sequence[Work]) -> None:
        """Run rows together, and one by one if that fails; a row that fails alone is set aside.

        A device that is lost stops the job: it would set aside all rows that are left.
        """
        try:
            self.run(rows)
            return
        except Exception as error:
            reason = f"{type(self).__name__.lower()}: {error}".partition("\n")[0]
        torch.zeros(1, device=self.job.pools.device).cpu()  # not in `except`, which keeps the failed batch
        if len(rows) == 1:
            rows[0].error = reason
            return
        for row in rows:
            self._run_apart([row])


class Perceive(Stage):
    """Vision encoders, detector and region encoder."""

    components = FireEditPipeline.PERCEIVING

    def run(self, rows: Sequence[Work]) -> None:
        percepts = self.pipeline.perceive([_canvas(row) for row in rows]).to("cpu").split()
        for row, own in zip(rows, percepts, strict=True):
            row.percepts = own.map(Tensor.clone)  # a slice would be pickled with the whole batch
            row.regions = len(own.boxes[0])


class Understand(Stage):
    """Vision-language model and Q-Former."""

    components = FireEditPipeline.UNDERSTANDING

    def run(self, rows: Sequence[Work]) -> None:
        percepts = Percepts.join([_percepts(row) for row in rows])
        edit_tokens = self.pipeline.understand(percepts, [row.instruction for row in rows]).cpu()
        for row, own in zip(rows, edit_tokens.split(1), strict=True):
            row.edit_tokens = own.clone()
            detail = _percepts(row).detail
            row.percepts = Percepts(own.new_zeros(1, 0), (), (), (), detail)  # all that painting reads


class Paint(Stage):
    """HVCA, TATI, UNet and VAE."""

    components = FireEditPipeline.PAINTING

    def run(self, rows: Sequence[Work]) -> None:
        percepts = Percepts.join([_percepts(row) for row in rows])
        edit_tokens = torch.cat([row.edit_tokens for row in rows if row.edit_tokens is not None])
        noise = [torch.Generator().manual_seed(row.seed) for row in rows]
        canvases = [_canvas(row) for row in rows]
        state = self.pipeline.prepare(canvases, percepts, edit_tokens, self.job.settings, noise)
        latents = self.pipeline.paint(state)
        painted, changed = self.pipeline.decode(latents), self.pipeline.changed(state, latents)
        for row, *result in zip(rows, painted, changed, strict=True):
            row.edit = Edit(_canvas(row), *(each.copy() for each in result))  # a slice is pickled with the whole batch
            row.canvas = row.percepts = row.edit_tokens = None


class Together:
    """Actor of all three stages."""

    def __init__(self, job: Job):
        pools = job.pools
        stages: list[tuple[type[Stage], PoolConfig]] = [
            (Perceive, pools.perceive),
            (Understand, pools.understand),
            (Paint, pools.paint),
        ]
        self.stages = [stage(job, replace(pool, threads=pools.paint.threads)) for stage, pool in stages]

    def __call__(self, item: dict[str, Batch]) -> dict[str, Batch]:
        for stage in self.stages:
            item = stage(item)
        return item


class System(Stage):
    """Actor of another system, which does all three stages."""

    components = ()

    def __init__(self, job: Job):
        quiet_loading()
        self.job, self.pool = job, job.pools.paint
        assert job.editor is not None
        self.system = load_editor(job.editor, job.pools.device)

    def run(self, rows: Sequence[Work]) -> None:
        texts, seeds = [row.instruction for row in rows], [row.seed for row in rows]
        painted = self.system.edit([_canvas(row) for row in rows], texts, seeds, self.job.settings)
        for row, picture in zip(rows, painted, strict=True):
            row.canvas, row.painted = None, picture


@dataclass(frozen=True)
class Write:
    """Task that encodes and writes the pictures of a batch; returns their records as JSON.

    A picture that cannot be written stops the job: its disk or server fails.
    """

    job: Job

    def __call__(self, item: dict[str, Batch]) -> dict[str, str]:
        return {"records": json.dumps([self._write(row) for row in item["batch"].rows])}

    def _write(self, row: Work) -> Record:
        data = b""
        if not row.error and (row.edit is not None or row.painted is not None):
            job, settings = self.job, asdict(self.job.settings)
            facts = Provenance(weights=job.fingerprint, seed=row.seed, settings=settings)
            try:
                if row.painted is not None:
                    picture = pictures.scaled(row.painted, row.data, job.size)
                elif row.edit is not None:
                    ground = pictures.ground_of(job.file_format)
                    picture = pictures.finish_picture(row.edit, row.data, job.size, ground)
                data = pictures.encode_picture(picture, job.file_format, facts)
            except Exception as error:
                row.error = f"cannot be encoded as {job.file_format}: {error}"
        return pictures.write_row(row, data, self.job.out, self.job.file_format, row.seconds, row.regions)


def load(job: Job, components: Sequence[str]) -> FireEditPipeline:
    """Load the pipeline with these components only."""
    quiet_loading()
    with nullcontext("nano") if job.weights == "nano" else storage.reading_folder(job.weights) as folder:
        dtype = DTYPES[job.pools.precision]
        pipeline = FireEditPipeline.from_pretrained(folder, parts=components, dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(job.pools.device)


def _canvas(row: Work) -> np.ndarray:
    assert row.canvas is not None, row.id
    return row.canvas


def _percepts(row: Work) -> Percepts:
    assert row.percepts is not None, row.id
    return row.percepts
