"""Deployment of denoising: from edit tokens to edited images."""

import asyncio
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from fireedit.models.model import Percepts
from fireedit.models.pipeline import FireEditPipeline, picture_size, regions_of
from fireedit.models.settings import PaintSettings, SettingValue
from fireedit.serve.part import ModelDeployment
from fireedit.serve.schema import Edited


@dataclass(frozen=True)
class QueuedEdit:
    """Edit of one request: as many images of one source as it has seeds."""

    image: np.ndarray
    """Source, uint8 RGB [H, W, 3]."""
    percepts: Percepts
    edit_tokens: Tensor
    """[1, 77, W]."""
    settings: PaintSettings
    seeds: Sequence[int]
    cancelled: threading.Event = field(default_factory=threading.Event)
    """Set when the client disconnects."""


class UNetDeployment(ModelDeployment):
    """HVCA, TATI, UNet and VAE (or codec): the last deployment of an edit, with nearly all of its time."""

    components = FireEditPipeline.PAINTING

    async def edit(
        self,
        image: np.ndarray,
        percepts: Percepts,
        edit_tokens: Tensor,
        settings: Mapping[str, SettingValue],
        seeds: Sequence[int],
    ) -> Edited:
        """Edit one image, in a batch with other requests; each result depends on its own seed alone."""
        queued = QueuedEdit(image, percepts, edit_tokens, self.pipeline.settings.but(**settings), seeds)
        try:
            return await self.submit(queued)
        except asyncio.CancelledError:
            queued.cancelled.set()
            raise

    def run(self, requests: Sequence[QueuedEdit]) -> list[Edited | None]:
        """Denoise edits of equal settings together; None for an edit that is cancelled."""
        results: list[Edited | None] = [None] * len(requests)
        for indices in indices_by_settings(requests):
            for index, edited in zip(indices, self._edit_group([requests[index] for index in indices]), strict=True):
                results[index] = edited
        return results

    def _edit_group(self, edits: Sequence[QueuedEdit]) -> Sequence[Edited | None]:
        """Denoise together, until every client has disconnected."""
        state = self.pipeline.prepare(
            images=[edit.image for edit in edits],
            percepts=Percepts.join([edit.percepts for edit in edits]),
            edit_tokens=torch.cat([edit.edit_tokens for edit in edits]),
            settings=edits[0].settings,
            generators=[torch.Generator().manual_seed(seed) for edit in edits for seed in edit.seeds],
            copies=[len(edit.seeds) for edit in edits],
        )
        for _ in state.scheduler.timesteps:
            if all(edit.cancelled.is_set() for edit in edits):
                return [None] * len(edits)
            self.pipeline.denoise(state)
        sizes = [picture_size(edit.image) for edit in edits for _ in edit.seeds]
        images = iter(self.pipeline.decode(self.pipeline.finish(state), sizes))
        results = []
        for edit in edits:
            (regions,) = regions_of(edit.percepts)
            results.append(Edited([np.asarray(next(images)) for _ in edit.seeds], regions.boxes, regions.scores))
        return results


def indices_by_settings(edits: Sequence[QueuedEdit]) -> list[list[int]]:
    """Group the indices of the edits that are not cancelled by equal settings."""
    groups: dict[PaintSettings, list[int]] = {}
    for index, edit in enumerate(edits):
        if not edit.cancelled.is_set():
            groups.setdefault(edit.settings, []).append(index)
    return list(groups.values())
