"""The proxy's middleware: ids, probes, and the envelope around every answer that is not the gateway's."""

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fireedit.serve import door as door_module
from fireedit.serve import metrics
from fireedit.serve.door import Door, middlewares
from fireedit.serve.envelope import DEADLINE, QUEUE_FULL, ROOM, timeout_s
from tests.serve.asgi import Answer, call

ROOT = Path(__file__).parents[2]
EDITS = "/v1/images/edits"


def test_import_loads_no_torch_and_no_pillow() -> None:
    code = "import sys, fireedit.serve.door; sys.exit(bool({'torch', 'PIL', 'numpy'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    assert [each.cls for each in middlewares()] == [Door]


def ask(app: ASGIApp, path: str = "/x", **request: Any) -> Answer:
    return asyncio.run(call(Door(app), path, **request))


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the headers that arrived."""
    await JSONResponse(dict(Request(scope).headers))(scope, receive, send)


async def silent(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer nothing, as Serve's proxy does when the gateway's replica dies."""


async def broken(scope: Scope, receive: Receive, send: Send) -> None:
    raise OSError("/etc/secret")


@pytest.mark.parametrize("bad", ["", "a" * 65, "a b", "a\nb", "é", "../x;rm"])
def test_unsafe_request_id_is_replaced(bad: str) -> None:
    seen = json.loads((answer := ask(echo, headers={"X-Request-Id": bad})).body)
    assert seen["x-request-id"] == answer.headers["x-request-id"] != bad
    assert len(seen["x-request-id"]) == 36


def test_safe_request_id_is_kept_once() -> None:
    answer = ask(echo, headers=[("x-request-id", "Az-09._"), ("x-request-id", "second")])
    assert json.loads(answer.body)["x-request-id"] == answer.headers["x-request-id"] == "Az-09._"
    assert answer.headers["server-timing"].startswith("door;dur=")


def test_headers_that_steer_serve_are_dropped() -> None:
    names = (DEADLINE, "x-request-disconnect-disabled", "serve_multiplexed_model_id", "x-session-id")
    assert not set(names) & set(json.loads(ask(echo, headers=dict.fromkeys(names, "?1")).body))


@pytest.mark.parametrize("bad", ["0", "-1", "nan", "inf", "soon", "1e9", ""])
def test_bad_timeout_is_an_error(bad: str) -> None:
    answer = ask(echo, headers={"x-request-timeout-seconds": bad})
    assert answer.status == 400 and "x-request-timeout-seconds" in answer.error()["message"]


def test_timeout_becomes_a_deadline_that_serve_does_not_see() -> None:
    seen = json.loads(ask(echo, headers={"x-request-timeout-seconds": "2.5"}).body)
    assert "x-request-timeout-seconds" not in seen and float(seen[DEADLINE]) > 1e9


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_health_is_answered_without_serve(method: str) -> None:
    answer = ask(broken, "/health", method=method)
    assert answer.status == 200 and answer.seconds < 0.05


@pytest.mark.parametrize(
    ("app", "status", "code"),
    [
        (PlainTextResponse("Path '/x' not found.", 404), 404, "not_found"),
        (PlainTextResponse("Request timed out", 408), 408, "timeout"),
        (PlainTextResponse("dropped due to backpressure", 429), 429, "too_many_requests"),
        (PlainTextResponse("Traceback: /srv/x.py", 503), 503, "unavailable"),
        (PlainTextResponse("Internal Server Error", 500), 503, "unavailable"),
        (PlainTextResponse("teapot", 418), 418, "http_418"),
        (silent, 503, "unavailable"),
        (broken, 500, "internal_error"),
    ],
)
def test_bare_error_comes_in_the_envelope(app: ASGIApp, status: int, code: str) -> None:
    answer = ask(app, headers={"x-request-id": "me"})
    assert (answer.status, answer.error()["code"], answer.headers["x-request-id"]) == (status, code, "me")
    assert ("retry-after" in answer.headers) == (status in (429, 503))
    assert int(answer.headers["content-length"]) == len(answer.body)


def test_redirect_keeps_its_location_and_gets_the_envelope() -> None:
    answer = ask(RedirectResponse("/y"))
    assert answer.headers["location"] == "/y" and answer.error()


def test_answer_of_the_gateway_passes_unchanged() -> None:
    body = {"error": {"message": "n: found 0; write more", "type": "a", "param": "n", "code": "b"}}
    answer = ask(JSONResponse(body, 400, {"x-should-retry": "false"}))
    assert (answer.status, json.loads(answer.body), answer.headers["x-should-retry"]) == (400, body, "false")
    assert ask(PlainTextResponse("fine")).body == b"fine"


def test_too_many_headers_and_two_lengths_are_errors() -> None:
    assert ask(echo, headers={f"x-{index}": "a" * 1000 for index in range(40)}).status == 431
    answer = ask(echo, headers={"content-length": "1", "transfer-encoding": "chunked"})
    assert (answer.status, answer.headers["connection"]) == (400, "close")
    assert ask(echo, "/" + "a" * 5000).status == 404


def test_client_that_left_is_sent_nothing_and_a_websocket_is_closed() -> None:
    async def leave(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()

    async def main(kind: str) -> list[Message]:
        sent = list[Message]()
        scope = {"type": kind, "method": "POST", "path": EDITS, "headers": []}

        async def receive() -> Message:
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            sent.append(message)

        await Door(leave)(scope, receive, send)
        return sent

    assert asyncio.run(main("http")) == []
    assert asyncio.run(main("websocket")) == [{"type": "websocket.close"}]


@pytest.mark.parametrize("ends", [True, False])
def test_a_stream_passes_unchanged_and_one_that_breaks_off_ends_in_an_error(ends: bool) -> None:
    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-room", b"a 10")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for event in (b"event: a\n\n", b": b\n\n"):
            await send({"type": "http.response.body", "body": event, "more_body": True})
        if ends:
            await send({"type": "http.response.body", "body": b""})

    answer = ask(stream, EDITS, method="POST")
    assert answer.status == 200 and answer.body.startswith(b"event: a\n\n: b\n\n") and ROOM not in answer.headers
    rest = answer.body.removeprefix(b"event: a\n\n: b\n\n")
    if ends:
        assert rest == b""
    else:
        kind, data = rest.removesuffix(b"\n\n").split(b"\n")
        event = json.loads(data.removeprefix(b"data: "))
        assert kind == b"event: error" and (event["type"], event["error"]["code"]) == ("error", "unavailable")


class FullGateway:
    """Gateway that refuses, and counts the requests that it gets."""

    def __init__(self, shut: bool = True):
        self.calls, self.shut = 0, shut

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.calls += 1
        body = {"error": {"message": "the queue is full", "type": "rate_limit_error", "param": None, "code": "full"}}
        await JSONResponse(body, 429, {QUEUE_FULL: "1"} if self.shut else {})(scope, receive, send)


@pytest.mark.parametrize(("shut", "calls"), [(True, 2), (False, 21)])
def test_full_gateway_is_left_alone_for_a_moment(shut: bool, calls: int) -> None:
    async def flood() -> None:
        door = Door(gateway := FullGateway(shut))
        for index in range(20):
            path = (EDITS, "/v1/edits", "/models/nano")[index % 3]
            answer = await call(door, path, method="POST", headers={"x-request-id": str(index)})
            assert (answer.status, answer.headers["x-request-id"]) == (429, str(index)) and answer.error()
            assert QUEUE_FULL not in answer.headers
        assert gateway.calls == calls - 1
        assert (await call(door, "/v1/models")).status == 429  # only edits are refused here
        assert gateway.calls == calls
        await asyncio.sleep(0.21)
        await call(door, EDITS, method="POST")
        assert gateway.calls == calls + 1

    asyncio.run(flood())


def test_edits_that_no_gateway_counts_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = list[str]()
    monkeypatch.setattr(metrics, "count_request", counted.append)

    def bare(status: int) -> ASGIApp:
        return PlainTextResponse("", status)

    for status, outcome in {408: "timeout", 429: "rejected", 500: "unavailable", 503: "unavailable"}.items():
        for path in ("/ready", EDITS):
            ask(bare(status), path, method="POST")
        assert counted == [outcome], "of the edit alone"
        counted.clear()
    for app, outcome in ((silent, "unavailable"), (broken, "failed")):
        ask(app, EDITS, method="POST")
        assert counted == [outcome]
        counted.clear()
    ask(echo, EDITS, method="POST", headers={"x-request-timeout-seconds": "soon"})
    ask(echo, EDITS, method="POST")
    assert counted == ["invalid"]


def test_a_timeout_beyond_all_needs_no_more_digits_than_the_gateway_reads() -> None:
    seen = json.loads(ask(echo, headers={"x-request-timeout-seconds": "9999999999"}).body)
    assert 1e5 < float(seen[DEADLINE]) - time.time() < 1e9 and timeout_s(seen[DEADLINE])


class SlowGateway:
    """Gateway that reads a body, answers after a while and reports its room."""

    def __init__(self, room: str):
        self.calls, self.room, self.go = 0, room, asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.calls += 1
        await receive()
        await self.go.wait()
        await JSONResponse({}, headers={ROOM: self.room} if self.room else {})(scope, receive, send)


async def crowd(door: Door, count: int) -> list[asyncio.Task[Answer]]:
    """Send edits at once; returns them when all that are refused at once are."""
    edits = [asyncio.create_task(call(door, EDITS, method="POST")) for _ in range(count)]
    await asyncio.sleep(0.1)
    return edits


@pytest.mark.parametrize(("rooms", "taken"), [([], 40), (["a 100"], 40), (["a 20", "b 90"], 24), (["a 0"], 4)])
def test_crowd_beyond_the_room_is_refused_at_once(
    rooms: list[str], taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door_module, "DECIDED_S", 3.0)  # a slow machine takes longer than 0.5 s to send 400

    async def flood() -> None:
        door = Door(gateway := SlowGateway(""))
        for room in rooms:
            door.crowd.report(room)
        earlier = 2 * door_module.DECIDED_S
        door.crowd.rooms = {name: (room, at - earlier) for name, (room, at) in door.crowd.rooms.items()}
        edits = await crowd(door, 400)
        refused = [edit.result() for edit in edits if edit.done()]
        assert (gateway.calls, len(refused)) == (taken, 400 - taken)
        for answer in refused:
            assert (answer.status, answer.headers["retry-after"]) == (429, "1") and answer.error()
        assert sorted(answer.seconds for answer in refused)[len(refused) // 2] < 0.05
        gateway.go.set()
        assert not [edit for edit in await asyncio.gather(*edits) if not edit.status] and not door.crowd.edits

    asyncio.run(flood())


def test_crowd_is_refused_until_a_gateway_reports_its_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "DECIDED_S", 0.2)
    monkeypatch.setattr(door_module, "UNREPORTED_S", 1.0)

    async def flood() -> None:
        door = Door(gateway := SlowGateway("a 10"))
        edits = await crowd(door, 50)
        await asyncio.sleep(0.3)
        assert (await call(door, EDITS, method="POST")).status == 429  # 40 are at work, and none has answered
        door.crowd.report("a 10")
        edits += await crowd(door, 10)
        assert gateway.calls == 46
        await asyncio.sleep(1.1)
        edits += await crowd(door, 2)
        assert gateway.calls == 48
        gateway.go.set()
        assert Counter(edit.status for edit in await asyncio.gather(*edits)) == {200: 48, 429: 14}

    asyncio.run(flood())


def test_unfinished_bodies_are_no_crowd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "DECIDED_S", 0.5)

    async def flood() -> None:
        door = Door(gateway := SlowGateway(""))
        with ExitStack() as stack:
            for _ in range(100):
                stack.enter_context(door.crowd.joined(asyncio.Event().wait))
            assert door.crowd.is_full()
            await asyncio.sleep(0.6)
            assert not door.crowd.is_full() and gateway.calls == 0

    asyncio.run(flood())


def test_a_page_that_the_browser_has_and_the_times_of_the_stages_pass_the_proxy() -> None:
    async def known(scope: Scope, receive: Receive, send: Send) -> None:
        headers = {"etag": '"a"', "server-timing": "unet;dur=5.0"}
        await Response(status_code=304, headers=headers)(scope, receive, send)

    answer = ask(known)
    assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", '"a"')
    door, unet = answer.headers["server-timing"].split(", ")
    assert door.startswith("door;dur=") and unet == "unet;dur=5.0"
