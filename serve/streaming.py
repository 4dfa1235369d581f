"""Answers as server-sent events, in the shapes of OpenAI's images API."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, aclosing
from typing import Any

import numpy as np
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from fireedit.platform import images
from fireedit.platform.provenance import Provenance, xmp_packet
from fireedit.platform.restoration import canvas_size
from fireedit.serve.answer import description
from fireedit.serve.entry import Entry
from fireedit.serve.errors import answer_to
from fireedit.serve.flow import Flow
from fireedit.serve.record import Record
from fireedit.serve.schema import Edited, EditRequest

KEEP_ALIVE_S = 10.0
"""Seconds without an event after which a comment is sent, so that nothing between takes the stream for dead."""
KEEP_ALIVE = b": still at work\n\n"
HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}
"""Headers that keep what is between from holding events back."""

Event = dict[str, Any]
"""JSON of an event; its `type` names it."""
Events = AsyncGenerator[Event | None]
"""Events; None where there was no news for KEEP_ALIVE_S."""
Encode = Callable[[Entry, Edited], Coroutine[Any, Any, dict[str, Any]]]


def frame(event: Event) -> bytes:
    """Encode an event."""
    return f"event: {event['type']}\ndata: {json.dumps(event, separators=(',', ':'))}\n\n".encode()


class EventStream(StreamingResponse):
    """Response of events; an error ends them with an event of type `error`.

    Events and what the request holds are let go when the last event is sent, and when the client leaves.
    """

    def __init__(self, events: Events, record: Record, held: AbstractContextManager[Any]):
        """
        Args:
            record: account of the request, which is told the true end of the stream.
            held: entered already; its exit comes at the end of the stream.
        """
        self.events, self.record, self.held = events, record, held
        self.frames = self._frames()
        super().__init__(self.frames, headers=HEADERS, media_type="text/event-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self.held:
            async with aclosing(self.events), aclosing(self.frames):
                await super().__call__(scope, receive, send)

    async def _frames(self) -> AsyncGenerator[bytes]:
        sent = 0
        try:
            async for event in self.events:
                data = KEEP_ALIVE if event is None else await asyncio.to_thread(frame, event)
                sent += len(data)
                yield data
        except Exception as error:
            answer = answer_to(error, self.record.request_id)
            data = frame(error_event(json.loads(bytes(answer.body))["error"]))
            self.record.answered(answer, error)
            self.record.bytes_out = sent + len(data)
            yield data
        else:
            self.record.done(sent)


async def edit_events(flow: Flow, entry: Entry, record: Record, encode: Encode) -> Events:
    """Run an edit and yield its events.

    Args:
        encode: builds the body of the answer that does not stream.
    """
    index = 0
    async with aclosing(flow.watch(entry.request, entry.job, record.trace, KEEP_ALIVE_S)) as watched:
        async for news in watched:
            if news is None:
                yield None
            elif isinstance(news, Edited):
                encoding = asyncio.create_task(encode(entry, news))
                while not (await asyncio.wait({encoding}, timeout=KEEP_ALIVE_S))[0]:
                    yield None
                for event in completed_events(encoding.result()):
                    yield event
            elif news.images is not None:
                for event in await asyncio.to_thread(partial_events, entry.request, news.images, index):
                    yield event
                index += 1


def partial_events(request: EditRequest, canvases: list[np.ndarray], index: int) -> list[Event]:
    """Build the events of one partial picture of each image.

    Args:
        canvases: uint8 RGB [S, S, 3] each.
        index: number of the partial picture, from 0.
    """
    size = canvas_size(request.source.size, len(canvases[0]))
    described = description(request) | {"size": "{}x{}".format(*size), "created_at": int(time.time())}
    head = {"type": "image_edit.partial_image", "partial_image_index": index}
    how = (request.output_format, request.output_compression, xmp_packet(Provenance()))
    files = (images.encode(images.resize(canvas, *size), *how) for canvas in canvases)
    events = [{**head, "b64_json": base64.b64encode(file).decode(), **described} for file in files]
    return numbered(events)


def completed_events(body: dict[str, Any]) -> Iterator[Event]:
    """Build the last events of an edit, one for each image, from the body of the answer that does not stream."""
    common = {name: value for name, value in body.items() if name not in ("created", "data")}
    head = {"type": "image_edit.completed", "created_at": body["created"]}
    yield from numbered([{**head, **common, **image} for image in body["data"]])


def numbered(events: list[Event]) -> list[Event]:
    """Tell the events of several images apart."""
    if len(events) == 1:
        return events
    return [{**event, "output_index": index} for index, event in enumerate(events)]


def error_event(error: dict[str, Any]) -> Event:
    """Build the event that ends a failed stream.

    Args:
        error: message, type, param and code.
    """
    return {"type": "error", "error": error}
