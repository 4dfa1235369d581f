"""Engine of the UNet deployment: it keeps a set of edits and does one denoising step for a batch of them at a time.

Edits join and leave between steps. On a CPU in float32 a picture is the same, byte for byte, in any company.
"""

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fireedit.models.model import Percepts
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.sampling import SamplingState
from fireedit.models.settings import PaintSettings
from fireedit.serve import metrics
from fireedit.serve.progress import Mailbox, Progress, partial_steps
from fireedit.serve.schema import DeadlineExceeded, EditJob
from fireedit.serve.stage import Painted, StageTimes

logger = logging.getLogger("ray.serve")  # Ray Serve's log: each line has the id of its request

InThread = Callable[..., Awaitable[Any]]
Pictures = tuple[list[np.ndarray], list[np.ndarray]]
"""Canvases, uint8 RGB [S, S, 3] each, and their cells that the edit changed, bool [h, w] each."""
SMOOTHING = 0.9
"""Share of the moving average of a branch's seconds that is kept at each step."""
PROGRESS_EVERY_S = 0.1
"""Seconds between two reports of an edit's progress; partial pictures wait for none."""


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Batches of the UNet."""

    max_branches: Annotated[int, Field(ge=1)] = 24
    """Samples in one forward of the UNet: an edit of n pictures takes n, or 3 n with guidance. A larger edit runs
    alone."""
    patience: Annotated[int, Field(ge=1)] = 4
    """Every so many steps the edit that has waited for the most steps comes first; in all others, the shortest."""


@dataclass(frozen=True)
class Load:
    """Counters of an engine."""

    running: int
    """Edits that have begun."""
    waiting: int
    steps: int
    """Steps done since the start, one per edit in each batch."""


@dataclass(eq=False)
class QueuedEdit:
    """Edit from its arrival to its pictures."""

    job: EditJob
    settings: PaintSettings
    canvas: np.ndarray
    """Source, uint8 RGB [S, S, 3]."""
    detail: Percepts | None
    edit_tokens: Tensor
    """[1, 77, W]."""
    result: "asyncio.Future[Pictures]"
    arrived: float = field(default_factory=time.monotonic)
    began: float | None = None
    state: SamplingState | None = None
    """None before the first step."""
    alone: bool = False
    """True if the edit shares no batch."""
    passed_over: int = 0
    """Steps since the edit was last in a batch."""
    mailbox: Mailbox | None = None
    """Reader's end of its progress; None if nobody watches."""
    partials_due: set[int] = field(default_factory=set)
    """Steps that partial pictures are still to follow."""
    told: float = -math.inf
    """Time of its last report, in seconds of `time.monotonic()`."""

    @property
    def branches(self) -> int:
        """Samples in the next forward of the UNet; before the first step, those of a guided one."""
        if self.state is not None and self.state.steps_left:
            return self.state.branches
        return len(self.job.seeds) * (3 if self.settings.guided else 1)

    @property
    def branches_left(self) -> int:
        """Samples in all forwards of the UNet to come."""
        return self.branches * self.steps_left if self.state is None else self.state.branches_left

    @property
    def steps_left(self) -> int:
        return self.settings.num_inference_steps if self.state is None else self.state.steps_left

    @property
    def step(self) -> int:
        """Number of steps done."""
        return 0 if self.state is None else self.state.step


def choose(edits: Sequence[QueuedEdit], max_branches: int, longest_waiting_first: bool) -> list[QueuedEdit]:
    """Choose the edits of the next step: those with the fewest steps left, as many as fit.

    Args:
        longest_waiting_first: give the first place to the edit that was passed over most often.
    """
    order = sorted(edits, key=lambda edit: (edit.steps_left, edit.arrived))
    if longest_waiting_first:
        order.sort(key=lambda edit: -edit.passed_over)
        order[1:] = sorted(order[1:], key=lambda edit: (edit.steps_left, edit.arrived))
    batch, room = order[:1], max_branches - order[0].branches
    for edit in order[1:]:
        if edit.branches <= room and not edit.alone and not batch[0].alone:
            batch.append(edit)
            room -= edit.branches
    return batch


class Engine:
    """Paints edits; `_advance` and what it calls run in the model's thread, all other methods on one event loop."""

    def __init__(self, pipeline: FireEditPipeline, config: EngineConfig, in_thread: InThread = asyncio.to_thread):
        """
        Args:
            in_thread: runs a function with its arguments off the event loop.
        """
        self.pipeline, self.config, self._in_thread = pipeline, config, in_thread
        self.branch_seconds = 0.0
        """Seconds of a step divided by its branches, a moving average."""
        self._edits: list[QueuedEdit] = []
        self._batches = self._steps = 0
        self._loop: asyncio.Task[None] | None = None

    async def paint(self, canvas: np.ndarray, detail: Percepts | None, edit_tokens: Tensor, job: EditJob) -> Painted:
        """Paint one edit; a caller that is cancelled takes its edit out before the next step.

        Args:
            canvas: uint8 RGB [S, S, 3].
            detail: percepts with HVCA's sources; None for an editor without HVCA.
            edit_tokens: [1, 77, W].
        Raises:
            DeadlineExceeded: the deadline passed before the last step.
        """
        edit = self._join(canvas, detail, edit_tokens, job)
        return self._painted(edit, await edit.result)

    async def watch(
        self, canvas: np.ndarray, detail: Percepts | None, edit_tokens: Tensor, job: EditJob
    ) -> AsyncGenerator[Progress | Painted]:
        """Paint one edit as `paint` does, and yield its progress before its pictures.

        A slow reader gets the latest progress, and each partial picture once. Closing the generator takes the edit out.
        """
        edit = self._join(canvas, detail, edit_tokens, job, mailbox := Mailbox())
        edit.partials_due = partial_steps(edit.settings.num_inference_steps, job.partial_images)
        try:
            async for progress in mailbox.read(edit.result):
                assert progress is not None
                yield progress
            yield self._painted(edit, await edit.result)
        finally:
            edit.result.cancel()

    def _join(
        self,
        canvas: np.ndarray,
        detail: Percepts | None,
        edit_tokens: Tensor,
        job: EditJob,
        mailbox: Mailbox | None = None,
    ) -> QueuedEdit:
        """Add an edit to the next steps."""
        result = asyncio.get_running_loop().create_future()
        settings = self.pipeline.settings.but(**job.settings)
        edit = QueuedEdit(job, settings, canvas, detail, edit_tokens, result, alone=job.reproducible, mailbox=mailbox)
        self._edits.append(edit)
        if self._loop is None:
            self._loop = asyncio.create_task(self._run(), context=Context())  # not of one request
        return edit

    def _painted(self, edit: QueuedEdit, pictures: Pictures) -> Painted:
        began = edit.began or edit.arrived
        times = StageTimes("unet", began - edit.arrived, time.monotonic() - began)
        metrics.observe_stage(times.stage, times.queue_s, times.run_s)
        return Painted(*pictures, times, edit.settings.num_inference_steps, self.branch_seconds)

    def drop(self, callers: set[str]) -> None:
        """Take out the edits of callers that no longer exist."""
        for edit in self._edits:
            if edit.job.caller in callers:
                edit.result.cancel()

    @property
    def callers(self) -> set[str]:
        """Callers that wait for an edit."""
        return {edit.job.caller for edit in self._edits if edit.job.caller}

    @property
    def load(self) -> Load:
        running = sum(edit.state is not None for edit in self._edits)
        return Load(running, len(self._edits) - running, self._steps)

    @property
    def queue_seconds(self) -> float:
        """Estimate the seconds until the edits of this moment are done."""
        return self.branch_seconds * sum(edit.branches_left for edit in self._edits)

    async def _run(self) -> None:
        """Step until no edit is left."""
        try:
            while self._leave():
                batch = choose(self._edits, self.config.max_branches, self._batches % self.config.patience == 0)
                for edit in self._edits:
                    edit.passed_over = 0 if edit in batch else edit.passed_over + 1
                await self._step(batch)
                await self._tell()
        finally:
            self._loop = None

    def _leave(self) -> int:
        """Take out the edits that are done, cancelled or too late; returns how many are left."""
        now = time.time()
        for edit in self._edits:
            if edit.job.deadline < now and not edit.result.done():
                edit.result.set_exception(DeadlineExceeded(edit.job.request_id))
        self._edits = [edit for edit in self._edits if not edit.result.done()]
        load = self.load
        metrics.set_load("unet", load.running, load.waiting)
        return len(self._edits)

    async def _step(self, batch: list[QueuedEdit]) -> None:
        """Run one step in a thread; if it fails, its edits are tried alone, so that only the cause fails."""
        try:
            done = await self._in_thread(self._advance, batch)
        except Exception as error:
            logger.exception("a step failed of requests %s", ", ".join(edit.job.request_id for edit in batch))
            for edit in batch:
                if len(batch) == 1 and not edit.result.done():
                    edit.result.set_exception(error)
                edit.alone = True
            return
        self._batches, self._steps = self._batches + 1, self._steps + len(batch)
        metrics.count_steps(len(batch))
        for edit, pictures in zip(batch, done, strict=True):
            edit.alone = edit.job.reproducible
            if pictures is not None and not edit.result.done():
                edit.result.set_result(pictures)

    async def _tell(self) -> None:
        """Report the progress of the edits that are watched, with the partial pictures that are due."""
        now = time.monotonic()
        for edit in [edit for edit in self._edits if edit.mailbox is not None and not edit.result.done()]:
            assert edit.mailbox is not None
            is_due = edit.step in edit.partials_due
            if not is_due and now - edit.told < PROGRESS_EVERY_S:
                continue
            edit.told = now
            edit.partials_due.discard(edit.step)
            try:
                images = await self._in_thread(self._preview, edit) if is_due else None
            except Exception as error:
                logger.exception("no partial picture of request %s", edit.job.request_id)
                if not edit.result.done():
                    edit.result.set_exception(error)
            else:
                steps = edit.settings.num_inference_steps
                edit.mailbox.post(Progress(edit.step, steps, self._position(edit), images))

    def _position(self, edit: QueuedEdit) -> int:
        """Count the edits that come before one that has not begun."""
        if edit.state is not None:
            return 0
        return sum((each.steps_left, each.arrived) < (edit.steps_left, edit.arrived) for each in self._edits)

    def _advance(self, batch: Sequence[QueuedEdit]) -> list[Pictures | None]:
        """Do one step and wait for the device; returns the pictures of each edit that is done.

        A repeated last step decodes them only.
        """
        states = [edit.state or self._begin(edit) for edit in batch]
        if unfinished := [state for state in states if state.steps_left]:
            started, branches = time.monotonic(), sum(state.branches for state in unfinished)
            self.pipeline.denoise(*unfinished)
            if (device := unfinished[0].latents.device).type == "cuda":
                torch.cuda.synchronize(device)  # else these would be the seconds of its launches
            seconds = (time.monotonic() - started) / branches
            kept = SMOOTHING if self.branch_seconds else 0
            self.branch_seconds = kept * self.branch_seconds + (1 - kept) * seconds
            metrics.observe_batch("unet", branches)
        return [self._pictures(edit) if edit.steps_left == 0 else None for edit in batch]

    def _begin(self, edit: QueuedEdit) -> SamplingState:
        edit.began = time.monotonic()
        generators = [torch.Generator().manual_seed(seed) for seed in edit.job.seeds]
        edit.state = self.pipeline.prepare(
            [edit.canvas], edit.detail, edit.edit_tokens, edit.settings, generators, copies=[len(generators)]
        )
        return edit.state

    def _pictures(self, edit: QueuedEdit) -> Pictures:
        assert edit.state is not None
        latents = self.pipeline.finish(edit.state)
        return list(self.pipeline.decode(latents)), list(self.pipeline.changed(edit.state, latents))

    def _preview(self, edit: QueuedEdit) -> list[np.ndarray]:
        assert edit.state is not None
        return list(self.pipeline.preview(edit.state))
