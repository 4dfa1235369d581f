"""Edits that their clients come back for: taken with 202, run by a gateway, and followed from any. Imports no torch."""

import asyncio
import json
import logging
import secrets
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import ExitStack, aclosing, suppress
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fireedit.serve.entry import Entry
from fireedit.serve.envelope import REQUEST_ID, safe_id
from fireedit.serve.errors import Lost, Refused, UnknownEdit, answer_to
from fireedit.serve.fields import Form
from fireedit.serve.flow import Flow
from fireedit.serve.keys import Keys
from fireedit.serve.progress import Progress
from fireedit.serve.record import Record
from fireedit.serve.schema import Edited
from fireedit.serve.store import EditsConfig, EditStore, News, Order, Report, SharedStore
from fireedit.serve.streaming import (
    KEEP_ALIVE_S,
    Encode,
    Events,
    EventStream,
    completed_events,
    error_event,
    partial_events,
)

logger = logging.getLogger("ray.serve")

REPORT_EVERY_S = 0.25
"""Seconds between two reports of the edits that a gateway runs."""
FINISH_TRIES, FINISH_PAUSE_S = 5, 1.0
"""Attempts to hand a result to a store that does not answer, and seconds between two."""

Enter = Callable[[Order, Record, ExitStack], Awaitable[Entry]]


@dataclass(eq=False)
class Run:
    """Edit that this gateway runs."""

    order: Order
    record: Record
    position: int | None
    steps: int
    step: int = 0
    partials: list[bytes] = field(default_factory=list)
    """Events of partial pictures, JSON."""
    reported: int = 0
    """Number of those that the store has."""
    task: "asyncio.Task[None] | None" = None

    def note(self, progress: Progress) -> None:
        self.step, self.steps, self.position = progress.step, progress.steps, progress.position or None

    def report(self) -> Report:
        new = tuple(self.partials[self.reported :])
        return Report(self.order.id, self.position, self.step, self.steps, new, self.reported)


class Edits:
    """Edits of /v1/edits: those that this gateway runs, and its answers to questions about all of them."""

    def __init__(self, config: EditsConfig, keys: Keys, flow: Flow, enter_again: Enter, encode: Encode):
        """
        Args:
            enter_again: lets an edit in that another gateway had let in before it died.
            encode: builds the body of an answer.
        """
        self.store = SharedStore(config)
        self._keys, self._flow, self._enter_again, self._encode = keys, flow, enter_again, encode
        self._identity = uuid.uuid4().hex
        self._runs: dict[str, Run] = {}
        self._reporting: asyncio.Task[None] | None = None
        self._abandoning: asyncio.Task[None] | None = None

    def routes(self) -> list[Route]:
        """List the routes of edits that were taken."""
        return [
            Route("/v1/edits/{id}", self.show, methods=["GET"]),
            Route("/v1/edits/{id}", self.cancel, methods=["DELETE"]),
            Route("/v1/edits/{id}/events", self.follow, methods=["GET"]),
        ]

    async def take(self, entry: Entry, record: Record, held: ExitStack) -> Response:
        """Answer 202 to an edit that was let in, and run it.

        Raises:
            Refused: the store is full of edits that are not done.
        """
        form = Form({**entry.form.texts, "seed": str(entry.request.seed)}, entry.form.files)
        timeout_s = entry.job.deadline - time.time()
        order = Order(f"edit_{secrets.token_hex(16)}", entry.owner, form, timeout_s, record.request_id)
        try:
            state = await self.store.ask(EditStore.add, order, self._identity, entry.position, entry.steps)
        except BaseException:  # the store may have it, and nobody would run it
            self._abandoning = asyncio.create_task(self._abandon(order), context=Context())
            raise
        if state is None:
            raise Refused("store_full", "the store of edits is full of such as are not done")
        run = Run(order, record, entry.position, entry.steps)
        self._start(run, self._paint(run, entry), held.pop_all())
        return JSONResponse(state.body(), 202, {"location": f"/v1/edits/{order.id}"})

    async def show(self, http: Request) -> Response:
        """Answer with the state of an edit, and its result if it is completed."""

        async def answer(id: str, owner: str, _: Record) -> Response:
            state = (await self._news(id, owner)).state
            body = json.dumps(state.body()).encode()
            if state.status == "completed" and (result := await self.store.ask(EditStore.result, id, owner)):
                body = body[:-1] + b', "result": ' + result + b"}"
            return Response(body, media_type="application/json", headers={"cache-control": "no-store"})

        return await self._answer(http, answer)

    async def follow(self, http: Request) -> Response:
        """Answer with the events of an edit, from its present state on."""

        async def answer(id: str, owner: str, record: Record) -> Response:
            await self._news(id, owner)
            return EventStream(self._events(id, owner), record, ExitStack())

        return await self._answer(http, answer)

    async def cancel(self, http: Request) -> Response:
        """Cancel an edit, or remove one that is done."""

        async def answer(id: str, owner: str, _: Record) -> Response:
            state = await self.store.ask(EditStore.cancel, id, owner)
            if state is None:
                raise UnknownEdit
            return JSONResponse(state.body())

        return await self._answer(http, answer)

    async def drain(self) -> None:
        """Wait for the edits that run here."""
        await asyncio.gather(*(run.task for run in self._runs.values() if run.task), return_exceptions=True)

    async def _answer(self, http: Request, answer: Callable[[str, str, Record], Awaitable[Response]]) -> Response:
        """Answer a question about an edit to whoever has its key; it counts as no edit."""
        record = Record(safe_id(http.headers.get(REQUEST_ID)))
        try:
            owner = self._keys.owner(http.headers.get("authorization"))
            return await answer(http.path_params["id"], owner, record)
        except Exception as error:
            response = answer_to(error, record.request_id)
            record.answered(response, error)
            return response

    async def _news(self, id: str, owner: str, version: int = -1, partials: int = 0) -> News:
        """Ask for the state of an edit; one whose gateway has died is run here from now on."""
        news = await self.store.ask(EditStore.news, id, owner, version, partials)
        if news is None:
            raise UnknownEdit
        if not news.is_orphan or id in self._runs:
            return news
        order = await self.store.ask(EditStore.claim, id, self._identity)
        if order is not None and id not in self._runs:
            logger.warning("request %s: the gateway of its edit is gone; this one runs it again", order.request_id)
            record = Record(order.request_id)
            (held := ExitStack()).enter_context(record)
            run = Run(order, record, news.state.queue_position, news.state.steps)
            self._start(run, self._paint_again(run, held), held)
        return news

    async def _events(self, id: str, owner: str) -> Events:
        version, known, sent = -1, 0, time.monotonic()
        while True:
            news = await self._news(id, owner, version, known)
            if news.version != version and not news.state.is_final:
                yield {"type": "edit.progress", **news.state.body()}
            for event in news.partials:
                yield json.loads(event)
            if news.version != version:
                sent = time.monotonic()
            elif time.monotonic() - sent >= KEEP_ALIVE_S:
                yield None
                sent = time.monotonic()
            version, known = news.version, known + len(news.partials)
            if news.state.is_final:
                break
        if news.state.status == "canceled":
            yield {"type": "edit.canceled", **news.state.body()}
        elif news.state.error is not None:
            yield error_event(news.state.error)
        elif (result := await self.store.ask(EditStore.result, id, owner)) is None:
            raise UnknownEdit  # removed in this moment
        else:
            for completed in completed_events(json.loads(result)):
                yield completed

    def _start(self, run: Run, painting: Coroutine[Any, Any, bytes], held: ExitStack) -> None:
        """Run an edit beside the requests, and report it."""
        self._runs[run.order.id] = run
        run.task = asyncio.create_task(self._run(run, painting, held), context=Context())
        if self._reporting is None or self._reporting.done():
            self._reporting = asyncio.create_task(self._report(), context=Context())

    async def _run(self, run: Run, painting: Coroutine[Any, Any, bytes], held: ExitStack) -> None:
        try:
            with held:
                result, error = b"", None
                try:
                    result = await painting
                    run.record.done(len(result))
                except Exception as failure:
                    answer = answer_to(failure, run.order.request_id)
                    run.record.answered(answer, failure)
                    if isinstance(failure, Refused):  # it was let in once, so it waits for the next who asks
                        return await self.store.ask(EditStore.release, run.order.id, self._identity)
                    error = json.loads(bytes(answer.body))["error"]
                await self._finish(run, result, error)
        finally:
            painting.close()
            if self._runs.get(run.order.id) is run:
                del self._runs[run.order.id]

    async def _paint(self, run: Run, entry: Entry) -> bytes:
        """Paint; returns the JSON of the answer."""
        index = 0
        async with aclosing(self._flow.watch(entry.request, entry.job, run.record.trace)) as watched:
            async for news in watched:
                if isinstance(news, Edited):
                    edited = news
                elif isinstance(news, Progress):
                    run.note(news)
                    if news.images is not None:
                        events = await asyncio.to_thread(partial_events, entry.request, news.images, index)
                        run.partials += [json.dumps(event).encode() for event in events]
                        index += 1
        body = await self._encode(entry, edited)
        return await asyncio.to_thread(lambda: json.dumps(body).encode())

    async def _paint_again(self, run: Run, held: ExitStack) -> bytes:
        return await self._paint(run, await self._enter_again(run.order, run.record, held))

    async def _report(self) -> None:
        """Report the edits that run here while there are any, and stop those that are canceled or another's by now."""
        while self._runs:
            await asyncio.sleep(REPORT_EVERY_S)
            runs = list(self._runs.values())
            reports = [run.report() for run in runs]
            try:
                verdicts = await self.store.ask(EditStore.report, self._identity, reports)
                for run, report, verdict in zip(runs, reports, verdicts, strict=True):
                    if verdict == "run":
                        run.reported += len(report.partials)
                    elif verdict == "unknown":
                        await self._add_again(run)
                    elif run.task is not None:
                        run.task.cancel()
            except Lost:
                logger.warning("the store of edits does not answer")

    async def _finish(self, run: Run, result: bytes, error: dict[str, Any] | None) -> None:
        """Hand a result to the store, also to one that has just started again."""
        for _ in range(FINISH_TRIES):
            try:
                verdict = await self.store.ask(EditStore.finish, self._identity, run.report(), result, error)
                if verdict != "unknown":
                    return
                await self._add_again(run)
            except Lost:
                await asyncio.sleep(FINISH_PAUSE_S)
        logger.error("request %s: the store of edits did not take its result", run.order.request_id)

    async def _abandon(self, order: Order) -> None:
        with suppress(Lost):
            await self.store.ask(EditStore.cancel, order.id, order.owner)

    async def _add_again(self, run: Run) -> None:
        run.reported = 0
        await self.store.ask(EditStore.add, run.order, self._identity, run.position, run.steps)
