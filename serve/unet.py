"""Deployment of painting: from edit tokens to edited pictures, one denoising step for a batch of edits at a time."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from contextvars import Context

from fireedit.serve import preload  # noqa: F401

# isort: split

import numpy as np
import ray
import torch
from torch import Tensor

from fireedit.models.model import Percepts
from fireedit.models.pipeline import FireEditPipeline
from fireedit.serve import metrics
from fireedit.serve.detector import nbytes
from fireedit.serve.engine import Engine, EngineConfig, Load
from fireedit.serve.part import ModelDeployment, WeightsConfig
from fireedit.serve.progress import Progress
from fireedit.serve.schema import EditJob
from fireedit.serve.stage import Painted

logger = logging.getLogger("ray.serve")  # Ray Serve's log: each line has the id of its request

WATCH_INTERVAL_S = 0.5
"""Seconds between two looks at the callers: a dead gateway cancels nothing."""
SERVE_NAMESPACE = "serve"
WARM_UP_RUNS = 3
"""Runs of each compiled batch before a replica is ready: torch compiles it in the first, records its CUDA graph in the
second and replays that from the third."""


class UNetDeployment(ModelDeployment):
    """HVCA, TATI, UNet and VAE (or codec): the last deployment of an edit, with nearly all of its time."""

    stage = "unet"
    components = FireEditPipeline.PAINTING

    def __init__(self, weights: WeightsConfig, threads: int, engine: EngineConfig):
        super().__init__(weights, threads)
        self.engine = Engine(self.pipeline, engine, self.in_thread)
        self._watch: asyncio.Task[None] | None = None
        self.warm_up(self._paint_batches)

    async def edit(self, canvas: np.ndarray, detail: Percepts | None, edit_tokens: Tensor, job: EditJob) -> Painted:
        """Edit one picture; a caller that is cancelled or dies takes its edit out before the next step.

        Args:
            canvas: source, uint8 RGB [S, S, 3].
            detail: percepts with HVCA's sources; None for an editor without HVCA.
            edit_tokens: [1, 77, W].
        Raises:
            DeadlineExceeded: the deadline passed before the last step.
        """
        self._take(canvas, detail, edit_tokens, job)
        return await self.engine.paint(canvas, detail, edit_tokens, job)

    async def watch(
        self, canvas: np.ndarray, detail: Percepts | None, edit_tokens: Tensor, job: EditJob
    ) -> AsyncGenerator[Progress | Painted]:
        """Edit one picture as `edit` does, and yield its progress before its pictures."""
        self._take(canvas, detail, edit_tokens, job)
        async with aclosing(self.engine.watch(canvas, detail, edit_tokens, job)) as watched:
            async for each in watched:
                yield each

    def _take(self, canvas: np.ndarray, detail: Percepts | None, edit_tokens: Tensor, job: EditJob) -> None:
        """Take account of an edit that arrives, and watch its caller."""
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._drop_orphans(), context=Context())  # not of one request
        metrics.count_bytes("gateway", self.stage, canvas.nbytes)
        metrics.count_bytes("text" if detail is None else "vlm", self.stage, edit_tokens.nbytes)
        if detail is not None:
            metrics.count_bytes("detector", self.stage, nbytes(detail))
        logger.info("request %s: %d pictures", job.request_id, len(job.seeds))

    async def load(self) -> Load:
        """Report the engine's own counters."""
        return self.engine.load

    def queue_seconds(self) -> float:
        return self.engine.queue_seconds

    async def _drop_orphans(self) -> None:
        """Take out the edits of gateways that died, while there are edits."""
        while callers := self.engine.callers:
            dead = {caller for caller in callers if not await asyncio.to_thread(_is_alive, caller)}
            if dead:
                logger.warning("dropping the edits of %s, which died", ", ".join(sorted(dead)))
                self.engine.drop(dead)
            await asyncio.sleep(WATCH_INTERVAL_S)

    def _paint_batches(self) -> None:
        """Paint as many empty pictures as a batch takes, and before that run each compiled batch that may occur.

        A device without the memory for them fails here, not under load, and later batches find the memory taken. The
        UNet gets more branches than `max_branches` from a larger edit, TATI one sample of each edit, the encoder one
        picture at a time. torch keeps CUDA graphs by thread: this is the one that paints later.
        """
        most, compiled = self.engine.config.max_branches, self.pipeline.speed.compile
        for size in compiled.get("unet", ()):
            self._paint_empty([size], guided=False)
        sizes = sorted(compiled.get("tati", ()))
        for size in (size for size, below in zip(sizes, [0, *sizes], strict=False) if below < most):
            self._paint_empty([1] * min(size, most), guided=False)
        for _ in range(WARM_UP_RUNS if compiled else 1):
            latents = self._paint_empty([max(1, most // 3)], guided=True)
            for size in compiled.get("decoder", (1,)):
                self.pipeline.decode(latents[:1].expand(size, -1, -1, -1))

    def _paint_empty(self, copies: Sequence[int], guided: bool) -> Tensor:
        """Edit empty pictures together, some copies of each, in enough steps of each kind; returns the first's latents.

        As the engine does, each edit is prepared by itself.
        """
        pipeline, speed = self.pipeline, self.pipeline.speed
        hvca, side = pipeline.hvca, pipeline.vae.config.sample_size
        canvas = np.zeros((side, side, 3), np.uint8)
        edit_tokens = torch.zeros(1, 77, pipeline.unet.config.cross_attention_dim)
        detail = None
        if hvca is not None:
            widths = [each.in_features for each in hvca.source_in.values()]
            sources = tuple(torch.zeros(1, 1, width, dtype=hvca.dtype) for width in widths)
            detail = Percepts(torch.zeros(1, 0), (), (), (), sources)
        scales = {"guidance_scale": 2.0 if guided else 1.0, "image_guidance_scale": 1.0}
        steps = WARM_UP_RUNS * speed.reuse_every if speed.compile else min(2, speed.reuse_every)
        settings = pipeline.settings.but(num_inference_steps=steps, **scales)
        states = [pipeline.prepare([canvas], detail, edit_tokens, settings, copies=[count]) for count in copies]
        while states[0].steps_left:
            pipeline.denoise(*states)
        return pipeline.finish(states[0])


def _is_alive(actor: str) -> bool:
    """Look an actor up; one that cannot be looked up now counts as alive."""
    try:
        ray.get_actor(actor, SERVE_NAMESPACE)
    except ValueError:
        return False
    except Exception as error:
        logger.warning("%s cannot be looked up: %s", actor, type(error).__name__)
    return True
