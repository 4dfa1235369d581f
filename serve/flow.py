"""Way of an edit through the stages: repeated when a replica dies, stopped when the client leaves."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError, RayServeException

from fireedit.serve import metrics
from fireedit.serve.entry import until
from fireedit.serve.errors import LOST, Lost
from fireedit.serve.progress import Mailbox, Progress
from fireedit.serve.schema import Edited, EditJob, EditRequest
from fireedit.serve.stage import Painted, Stages, StageTimes

logger = logging.getLogger("ray.serve")

ATTEMPTS = 3
"""Attempts per edit when a replica dies; a repeated edit gives the same images, as its seed is fixed."""
PAUSE_S = 0.1
"""Seconds before the second attempt, four times as many before the third."""
PROBE_EVERY_S, PROBE_TIMEOUT_S, STALE_S = 1.0, 5.0, 15.0
"""Seconds between probes of a stage, of one probe, and after which a stage that has not answered is not ready."""


@dataclass
class Trace:
    """Stages that an edit went through, for its log line; a repeated edit has only its last ones."""

    times: list[StageTimes] = field(default_factory=list)
    steps: int = 0
    attempts: int = 0
    partials: int = 0
    """Partial pictures that whoever watches the edit got, in all attempts."""


class Flow:
    """Way of an edit through the stages."""

    def __init__(self, stages: Stages, answered: Callable[[str], None], put: Callable[[Any], Any] = ray.put):
        """
        Args:
            answered: is called with the name of a stage that has answered.
            put: stores the canvas, which detector and UNet then read by reference.
        """
        self.stages, self._answered, self.put = stages, answered, put

    async def edit(self, request: EditRequest, job: EditJob, trace: Trace, mailbox: Mailbox | None = None) -> Edited:
        """Edit, again if a replica died; the deadline is the caller's to watch.

        Args:
            mailbox: gets the progress; None for a caller who waits for the end alone.
        Raises:
            Lost: replicas died again and again.
        """
        canvas = await asyncio.to_thread(self.put, request.source.canvas)
        for attempt in range(ATTEMPTS):
            trace.attempts, trace.times = attempt + 1, []
            try:
                return await self._edit(request, canvas, job, trace, mailbox)
            except BackPressureError:
                raise
            except LOST as error:
                logger.warning("request %s: attempt %d met %s", job.request_id, attempt + 1, type(error).__name__)
            if attempt + 1 < ATTEMPTS:
                await asyncio.sleep(PAUSE_S * 4**attempt)
        raise Lost

    async def watch(
        self, request: EditRequest, job: EditJob, trace: Trace, idle_s: float | None = None
    ) -> AsyncGenerator[Progress | Edited | None]:
        """Edit until the job's deadline, and yield the progress before the result; closing the generator ends the edit.

        A repeated edit begins its steps again; partial pictures, which are the same, come once.

        Args:
            idle_s: seconds without news after which None is yielded.
        Raises:
            DeadlineExceeded: the deadline passed first.
            Lost: replicas died again and again.
        """

        async def edit() -> Edited:
            async with until(job.deadline):
                return await self.edit(request, job, trace, mailbox)

        mailbox, task = Mailbox(), asyncio.create_task(edit())
        try:
            async with aclosing(mailbox.read(task, idle_s)) as news:
                async for progress in news:
                    yield progress
            yield await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _edit(
        self, request: EditRequest, canvas: Any, job: EditJob, trace: Trace, mailbox: Mailbox | None
    ) -> Edited:
        """Send the edit from stage to stage; tensors go from replica to replica, not through this process."""
        stages, order = self.stages, (job.deadline, job.request_id)
        detail, boxes, scores = None, np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
        if stages.detector and stages.vlm:
            seen = await self._call(stages.detector.propose, canvas, request.regions, *order, trace=trace)
            detail, boxes, scores = seen.detail, seen.boxes, seen.scores
            understood = await self._call(
                stages.vlm.understand, seen.key, seen.tokens, request.prompt, *order, trace=trace
            )
        else:
            assert stages.text, stages
            understood = await self._call(stages.text.understand, request.prompt, *order, trace=trace)
        painting = canvas, detail, understood.edit_tokens, job
        if mailbox is None:
            painted: Painted = await self._call(stages.unet.edit, *painting, trace=trace)
        else:
            painted = await self._watch(stages.unet.watch, *painting, trace=trace, mailbox=mailbox)
        trace.steps = painted.steps
        metrics.count_bytes("unet", "gateway", sum(canvas.nbytes for canvas in painted.canvases))
        return Edited(painted.canvases, painted.changed, boxes, scores, understood.tokens)

    async def _call(self, method: Any, *arguments: Any, trace: Trace) -> Any:
        """Await one stage; whoever stops waiting stops the stage's work."""
        response = method.remote(*arguments)
        try:
            result = await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        self._note(result.times, trace)
        return result

    async def _watch(self, method: Any, *arguments: Any, trace: Trace, mailbox: Mailbox) -> Painted:
        """Await a stage that reports progress; whoever stops waiting stops the stage's work."""
        response = method.options(stream=True).remote(*arguments)
        painted, partials = None, 0
        try:
            async for item in response:
                if isinstance(item, Painted):
                    painted = item
                    continue
                if item.images is not None:
                    partials += 1
                    if partials <= trace.partials:  # it came in an earlier attempt
                        item = replace(item, images=None)
                    trace.partials = max(trace.partials, partials)
                mailbox.post(item)
        except asyncio.CancelledError:
            response.cancel()
            raise
        assert painted is not None, "the stage ended without a result"
        self._note(painted.times, trace)
        return painted

    def _note(self, times: StageTimes, trace: Trace) -> None:
        trace.times.append(times)
        self._answered(times.stage)


class Readiness:
    """State of each stage, kept up in the background, so that a probe is answered at once."""

    def __init__(self, stages: Stages, from_zero: Sequence[str] = (), clock: Callable[[], float] = time.monotonic):
        """
        Args:
            from_zero: names of the stages that may have no replica, and get one when an edit comes.
        """
        self._stages = {name: stage for name, stage in stages.present.items() if name not in from_zero}
        self._clock = clock
        self._answered = dict.fromkeys(self._stages, -STALE_S)
        self._silent = dict.fromkeys(self._stages, 0.0)
        self._tasks: list[asyncio.Task[None]] = []

    def watch(self) -> None:
        """Probe every stage from now on; one that may scale from zero is not, as a probe would start a replica."""
        self._tasks = [asyncio.get_running_loop().create_task(self._watch(name)) for name in self._stages]

    def answered(self, name: str) -> None:
        """Take an answer to an edit for an answer to a probe."""
        if name in self._answered:
            self._answered[name] = self._clock()

    def missing(self) -> list[str]:
        """Name the stages that do not answer."""
        stale = self._clock() - STALE_S
        return [name for name, at in self._answered.items() if at <= stale or at < self._silent[name]]

    async def _watch(self, name: str) -> None:
        while True:
            if self._clock() - self._answered[name] >= PROBE_EVERY_S and not await self._probe(name):
                await self._probe(name)  # the other replica, if one of two has died
            await asyncio.sleep(PROBE_EVERY_S)

    async def _probe(self, name: str) -> bool:
        """Ask a stage; False if it is lost. No answer in time is no news: it may be busy."""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                await self._stages[name].ready.remote()
        except (TimeoutError, BackPressureError):
            return True
        except (RayError, RayServeException):
            self._silent[name] = self._clock()
            return False
        self.answered(name)
        return True
