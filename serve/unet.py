"""Painting: from what is to be done to the edited pictures."""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial

import numpy as np
import torch
from ray import serve
from torch import Tensor

from fireedit.models.model import Percepts
from fireedit.models.pipeline import FireEditPipeline, picture_size, regions_of
from fireedit.models.settings import PaintSettings
from fireedit.serve.part import Part, WeightsConfig, tune
from fireedit.serve.schema import Edited, Settings


class Abandoned(Exception):
    """Nobody waits any more for what is being painted."""


@dataclass(frozen=True)
class Edit:
    """One client's edit: as many pictures of one source as it has seeds."""

    image: np.ndarray
    percepts: Percepts
    edit_tokens: Tensor
    settings: PaintSettings
    seeds: Sequence[int]
    abandoned: threading.Event = field(default_factory=threading.Event)


class UNet(Part):
    """HVCA, TATI, UNet and VAE (or codec); the last deployment, where nearly all the time goes."""

    def __init__(self, weights: WeightsConfig, max_batch_size: int, batch_wait_s: float):
        super().__init__(FireEditPipeline.PAINTING, weights)
        tune(self._edit, max_batch_size, batch_wait_s)

    async def edit(
        self, image: np.ndarray, percepts: Percepts, edit_tokens: Tensor, settings: Settings, seeds: Sequence[int]
    ) -> Edited:
        """Paint one edit, together with those of others; each picture depends on its own seed alone."""
        edit = Edit(image, percepts, edit_tokens, self.pipeline.settings.but(**asdict(settings)), seeds)
        try:
            await self.free.wait()
            edited = await self._edit(edit)
            assert edited is not None, "an edit that somebody waits for is painted"
            return edited
        except asyncio.CancelledError:
            edit.abandoned.set()
            raise

    @serve.batch
    async def _edit(self, edits: list[Edit]) -> list[Edited | None]:
        return await self.work(partial(self._paint, edits))

    def _paint(self, edits: Sequence[Edit]) -> list[Edited | None]:
        """Those of equal settings together; None for an edit that nobody waits for."""
        groups: dict[PaintSettings, list[int]] = {}
        for index, edit in enumerate(edits):
            if not edit.abandoned.is_set():
                groups.setdefault(edit.settings, []).append(index)
        done: list[Edited | None] = [None] * len(edits)
        for indices in groups.values():
            try:
                painted = self._paint_alike([edits[index] for index in indices])
            except Abandoned:
                continue
            for index, edited in zip(indices, painted, strict=True):
                done[index] = edited
        return done

    def _paint_alike(self, edits: Sequence[Edit]) -> list[Edited]:
        def on_step(step: int, timestep: Tensor, latents: Tensor) -> Tensor:
            if all(edit.abandoned.is_set() for edit in edits):
                raise Abandoned
            return latents

        copies = [edit for edit in edits for _ in edit.seeds]
        latents = self.pipeline.paint(
            images=[edit.image for edit in copies],
            percepts=Percepts.join([edit.percepts for edit in copies]),
            edit_tokens=torch.cat([edit.edit_tokens for edit in copies]),
            settings=edits[0].settings,
            generators=[torch.Generator().manual_seed(seed) for edit in edits for seed in edit.seeds],
            on_step=on_step,
        )
        pictures = iter(self.pipeline.decode(latents, [picture_size(edit.image) for edit in copies]))
        painted = []
        for edit in edits:
            (regions,) = regions_of(edit.percepts)
            images = [np.asarray(next(pictures)) for _ in edit.seeds]
            painted.append(Edited(images, regions.boxes, regions.scores))
        return painted
