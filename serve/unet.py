"""Deployment of denoising: from edit tokens to edited images."""

import asyncio
import threading
import time

import numpy as np
import torch
from torch import Tensor

from fireedit.models.model import Percepts
from fireedit.models.pipeline import FireEditPipeline
from fireedit.serve.part import ModelDeployment
from fireedit.serve.schema import DeadlineExceeded, EditJob
from fireedit.serve.stage import Painted, StageTimes


class UNetDeployment(ModelDeployment):
    """HVCA, TATI, UNet and VAE (or codec): the last deployment of an edit, with nearly all of its time."""

    stage = "unet"
    components = FireEditPipeline.PAINTING

    async def edit(self, canvas: np.ndarray, detail: Percepts | None, edit_tokens: Tensor, job: EditJob) -> Painted:
        """Edit one image."""
        cancelled, queued = threading.Event(), time.perf_counter()
        try:
            return await self.in_thread(self._edit, canvas, detail, edit_tokens, job, cancelled, queued)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    def queue_seconds(self) -> float:
        return 0.0

    def _edit(
        self,
        canvas: np.ndarray,
        detail: Percepts | None,
        edit_tokens: Tensor,
        job: EditJob,
        cancelled: threading.Event,
        queued: float,
    ) -> Painted:
        begun = time.perf_counter()
        state = self.pipeline.prepare(
            images=[canvas],
            percepts=detail,
            edit_tokens=edit_tokens,
            settings=self.pipeline.settings.but(**job.settings),
            generators=[torch.Generator().manual_seed(seed) for seed in job.seeds],
            copies=[len(job.seeds)],
        )
        for _ in state.scheduler.timesteps:
            if cancelled.is_set() or time.time() > job.deadline:
                raise DeadlineExceeded
            self.pipeline.denoise(state)
        images = self.pipeline.decode(self.pipeline.finish(state), [job.size] * len(job.seeds))
        times = StageTimes(self.stage, begun - queued, run_s := time.perf_counter() - begun)
        return Painted([np.asarray(image) for image in images], times, state.step, run_s / state.step / len(job.seeds))
