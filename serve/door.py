"""Middleware of Ray Serve's HTTP proxy: request ids, probes, and every answer in OpenAI's error envelope.

Ray Serve loads it in the proxy from the environment of `ray start`:
RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=fireedit.serve.door:middlewares (see serve/ray.env).
"""

import logging
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fireedit.serve import metrics
from fireedit.serve.envelope import (
    DEADLINE,
    NO_RETRY,
    QUEUE_FULL,
    REQUEST_ID,
    RETRY_AFTER_S,
    ROOM,
    TIMEOUT,
    error_json,
    safe_id,
    timeout_s,
)

logger = logging.getLogger("ray.serve")

MAX_HEADER_BYTES = 32_768
MAX_PATH_CHARS = 2_000
LONGEST_TIMEOUT_S = 1e6
BREAK_S = 0.2
"""Seconds for which a gateway's "queue full" is repeated to further edits; about the time of one nano edit."""
FRESH_S = 10.0
"""Seconds for which a gateway's report of its room counts; it may have gone."""
DECIDED_S = 0.5
"""Seconds in which a gateway decides on an edit; one whose body takes longer is not counted until it is whole."""
UNREPORTED_S = 5.0
"""Seconds after which an edit no longer counts, though no gateway has reported its room since."""
MOST_UNDECIDED, LEAST_UNDECIDED = 40, 4
"""Edits at once that gateways are asked to decide on, whatever room they report; each takes Serve some milliseconds."""
USED_ROOM = 0.6
"""Share of the reported room that is used before the next report, as Serve spreads edits unevenly."""
_JSON, _EVENTS = "application/json", "text/event-stream"
_HEALTHY = b'{"status":"ok"}'
_DROPPED = (DEADLINE, TIMEOUT, "x-request-disconnect-disabled", "serve_multiplexed_model_id", "x-session-id")
"""Headers with which a client would steer Ray Serve itself."""
_KINDS = {
    400: ("invalid_request_error", "bad_request", "the request cannot be read"),
    404: ("invalid_request_error", "not_found", "no such path; edits go to POST /v1/images/edits"),
    408: ("timeout_error", "timeout", "the request's timeout passed before the edit was done"),
    429: ("rate_limit_error", "too_many_requests", "too many requests are waiting"),
    431: ("invalid_request_error", "headers_too_large", f"send at most {MAX_HEADER_BYTES:,} bytes of headers"),
    500: ("server_error", "internal_error", "the server failed; its log has the reason under this request's id"),
    503: ("server_error", "unavailable", "a part of the service is being restarted"),
}
"""Type, code and message of the envelope by status."""


def middlewares() -> list[Middleware]:
    """List the middlewares for the proxy; Ray Serve wraps them around its own, so this one sees requests first."""
    return [Middleware(Door)]


@dataclass
class Breaker:
    """Last "queue full" of a gateway, repeated for a moment so that a flood costs little."""

    until: float = 0.0
    """Seconds of `time.monotonic()`."""
    start: Message | None = None
    body: Message | None = None


@dataclass(eq=False)
class Sent:
    """Edit that was sent to a gateway and is not answered."""

    at: float
    """Time at which its head came, and later its body's end, in seconds of `time.monotonic()`."""
    is_whole: bool = False
    """True if its body has been read."""


@dataclass
class Crowd:
    """Edits that gateways may not have decided on yet.

    Serve needs a few milliseconds for each request, so in a crowd of hundreds a gateway's refusal would come after
    seconds. Gateways report their room with every answer; when the edits that were sent since would fill it, the proxy
    refuses at once instead.
    """

    edits: set[Sent] = field(default_factory=set)
    rooms: dict[str, tuple[int, float]] = field(default_factory=dict)
    """Room by gateway, and when it was reported."""

    def is_full(self) -> bool:
        """Tell if a further edit is one too many."""
        now = time.monotonic()
        self.rooms = {name: room for name, room in self.rooms.items() if room[1] > now - FRESH_S}
        reported = max((at for _, at in self.rooms.values()), default=0.0)
        since = max(reported - DECIDED_S, now - UNREPORTED_S)
        undecided = sum(each.at > (since if each.is_whole else now - DECIDED_S) for each in self.edits)
        smallest = min((room for room, _ in self.rooms.values()), default=MOST_UNDECIDED / USED_ROOM)
        room = USED_ROOM * smallest * max(1, len(self.rooms))
        return undecided >= min(MOST_UNDECIDED, max(LEAST_UNDECIDED, room))

    def report(self, value: str) -> None:
        """Take note of a gateway's room."""
        name, _, room = value.partition(" ")
        self.rooms[name] = int(room), time.monotonic()

    @contextmanager
    def joined(self, receive: Receive) -> Generator[Receive]:
        """Count an edit until it is answered; yields the `receive` that notices the end of its body."""
        self.edits.add(sent := Sent(time.monotonic()))

        async def listen() -> Message:
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body"):
                sent.at, sent.is_whole = time.monotonic(), True
            return message

        try:
            yield listen
        finally:
            self.edits.discard(sent)


class Door:
    """ASGI middleware around Ray Serve's proxy."""

    def __init__(self, app: ASGIApp):
        self.app, self.breaker, self.crowd = app, Breaker(), Crowd()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the headers, answer what needs no gateway, and watch over the answer to the rest."""
        if scope["type"] != "http":  # the API has no WebSocket, and Serve would log what its head holds
            return await send({"type": "websocket.close"})
        headers = MutableHeaders(scope=scope)
        request_id = safe_id(headers.get(REQUEST_ID))
        is_edit = _is_edit(scope)
        answer = Answer(send, request_id, self.breaker, self.crowd, is_edit)
        if scope["path"] == "/health" and scope["method"] in ("GET", "HEAD"):
            return await answer.send_whole(200, _HEALTHY)
        if fault := _fault(scope, headers):
            return await answer.send_error(*fault, close=True)
        try:
            _prepare(headers, request_id)
        except ValueError as error:
            return await answer.send_error(400, str(error))
        if not is_edit:
            return await self._forward(scope, receive, answer)
        if await answer.send_again():
            return
        if self.crowd.is_full():
            return await answer.refuse()
        with self.crowd.joined(receive) as listening:
            await self._forward(scope, listening, answer)

    async def _forward(self, scope: Scope, receive: Receive, answer: "Answer") -> None:
        """Let Serve answer."""
        try:
            await self.app(scope, answer.listening(receive), answer.watch)
        except Exception as error:
            logger.error("request %s: the proxy failed with %s", answer.request_id, type(error).__name__)
            await answer.finish(500)
        else:
            await answer.finish(503)  # Serve sends nothing if the gateway's replica died


class Answer:
    """Response of one request on its way to the client."""

    def __init__(self, send: Send, request_id: str, breaker: Breaker, crowd: Crowd, is_edit: bool):
        self._is_edit = is_edit
        self._to_client, self.request_id, self._breaker, self._crowd = send, request_id, breaker, crowd
        self._arrived = time.monotonic()
        self._started, self._replaced, self._left = False, False, False
        self._is_open_stream = False
        self._full: Message | None = None

    def listening(self, receive: Receive) -> Receive:
        """Wrap `receive` to notice a client that leaves."""

        async def listen() -> Message:
            message = await receive()
            self._left |= message["type"] == "http.disconnect"
            return message

        return listen

    async def watch(self, message: Message) -> None:
        """Pass on a message of Serve, or replace a bare error with the envelope."""
        if message["type"] == "http.response.start":
            await self._watch_start(message)
        elif not self._replaced:
            if self._full is not None:
                self._breaker.start, self._breaker.body = self._full, message
                self._breaker.until = time.monotonic() + BREAK_S
            self._is_open_stream &= message.get("more_body", False)
            await self._send(message)

    async def _watch_start(self, message: Message) -> None:
        headers, status = MutableHeaders(scope=message), message["status"]
        is_bare = status >= 300 and status != 304 and not headers.get("content-type", "").startswith(_JSON)
        if is_bare:
            self._replaced = True
            kept = {name: headers[name] for name in ("location", "retry-after", "allow") if name in headers}
            return await self.send_error(503 if status == 500 else status, headers=kept)
        if ROOM in headers:
            self._crowd.report(headers[ROOM])
            del headers[ROOM]
        if QUEUE_FULL in headers:
            del headers[QUEUE_FULL]
            self._full = message
        self._started = True
        self._is_open_stream = headers.get("content-type", "").startswith(_EVENTS)
        headers[REQUEST_ID] = self.request_id
        await self._send(message)

    async def _send(self, message: Message) -> None:
        """Send a message; the response's start tells the milliseconds since the request's headers were read."""
        if message["type"] == "http.response.start":
            milliseconds = 1e3 * (time.monotonic() - self._arrived)
            headers = MutableHeaders(scope=message)
            stages = [headers["server-timing"]] if "server-timing" in headers else []
            headers["server-timing"] = ", ".join([f"door;dur={milliseconds:.1f}", *stages])
        await self._to_client(message)

    async def finish(self, status: int) -> None:
        """Send an error if no answer, or a part of a stream, was sent and somebody waits."""
        if self._left:
            return
        if not self._started:
            await self.send_error(status)
        elif self._is_open_stream:
            kind, code, text = _KINDS[status]
            error = error_json(text, kind, code=code)[1:]
            body = b'event: error\ndata: {"type": "error", ' + error + b"\n\n"
            await self._send({"type": "http.response.body", "body": body})

    async def send_again(self) -> bool:
        """Repeat the last "queue full" if it is fresh."""
        start, body = self._breaker.start, self._breaker.body
        if start is None or body is None or time.monotonic() >= self._breaker.until:
            return False
        headers = Headers(scope=start).mutablecopy()
        headers[REQUEST_ID] = self.request_id
        await self._send({**start, "headers": headers.raw})
        await self._send(body)
        self._count_refusal()
        return True

    async def refuse(self) -> None:
        """Refuse an edit of a crowd."""
        await self.send_error(429, headers={"retry-after": "1"})

    async def send_error(
        self, status: int, message: str = "", headers: dict[str, str] | None = None, close: bool = False
    ) -> None:
        """Send the envelope, and count an edit that no gateway has counted; an unknown status keeps its number."""
        if self._is_edit and status == 429:
            self._count_refusal()
        elif self._is_edit:
            metrics.count_request(metrics.OUTCOMES.get(status, "invalid"))
        kind, code, text = _KINDS.get(status, ("invalid_request_error", f"http_{status}", f"HTTP status {status}"))
        headers = dict(headers or {})
        if status in (429, 503):
            seconds = headers.setdefault("retry-after", str(RETRY_AFTER_S))
            text = f"{text}; try again in {seconds} s"
        if status in (408, 500):
            headers |= NO_RETRY
        if close:
            headers["connection"] = "close"
        await self.send_whole(status, error_json(message or text, kind, code=code), headers)

    def _count_refusal(self) -> None:
        metrics.count_request("rejected")
        metrics.count_rejection("queue_full")

    async def send_whole(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        """Send a JSON body."""
        fields = {
            "content-type": _JSON,
            "content-length": str(len(body)),
            REQUEST_ID: self.request_id,
            **(headers or {}),
        }
        self._started = True
        await self._send({"type": "http.response.start", "status": status, "headers": Headers(fields).raw})
        await self._send({"type": "http.response.body", "body": body})


def _is_edit(scope: Scope) -> bool:
    """Tell if a request asks for an edit, so that it counts in the crowd and is refused with it."""
    path: str = scope["path"]
    return scope["method"] == "POST" and (path in ("/v1/images/edits", "/v1/edits") or path.startswith("/models/"))


def _fault(scope: Scope, headers: Headers) -> tuple[int, str] | None:
    """Find out why a request's head is not taken; returns status and message, or None."""
    if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADER_BYTES:
        return 431, ""
    if len(scope["path"]) > MAX_PATH_CHARS:
        return 404, ""
    if "transfer-encoding" in headers and "content-length" in headers or len(headers.getlist("content-length")) > 1:
        return 400, "found two lengths of the body; send Content-Length or Transfer-Encoding: chunked"
    return None


def _prepare(headers: MutableHeaders, request_id: str) -> None:
    """Set the headers that the gateway reads; a client's timeout becomes a deadline, which the gateway keeps itself.

    Raises:
        ValueError: a timeout that is no number of seconds.
    """
    found = headers.get(TIMEOUT)
    for name in _DROPPED:
        del headers[name]
    if found is not None:
        headers[DEADLINE] = repr(time.time() + min(timeout_s(found), LONGEST_TIMEOUT_S))
    del headers[REQUEST_ID]
    headers[REQUEST_ID] = request_id
