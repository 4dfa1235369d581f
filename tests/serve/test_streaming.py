"""Answers in server-sent events, also as OpenAI's own client reads them."""

import asyncio
import base64
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import openai
import pytest
import uvicorn
from ray.exceptions import ActorDiedError
from starlette.types import ASGIApp, Message

from fireedit.platform import images
from fireedit.platform.statements import find
from fireedit.serve import flow as flow_module
from fireedit.serve import streaming
from fireedit.serve.door import Door
from fireedit.serve.envelope import ROOM
from fireedit.serve.progress import Progress
from fireedit.serve.stage import Painted
from fireedit.serve.streaming import frame
from tests.serve.asgi import FORM, Answer, call, multipart
from tests.serve.conftest import Client
from tests.serve.standins import CANVAS, CHANGED, IMAGE, WATCHED, Method, gateway, times

EDITS = "/v1/images/edits"
PNG = images.encode_png(IMAGE)


def events_of(body: bytes) -> list[dict[str, Any]]:
    """Parse frames, and check each byte by byte."""
    events = []
    for part in body.split(b"\n\n")[:-1]:
        if not part.startswith(b":"):
            kind, data = part.split(b"\n")
            event = json.loads(data.removeprefix(b"data: "))
            assert kind == f"event: {event['type']}".encode() and frame(event) == part + b"\n\n"
            events.append(event)
    return events


async def post(app: ASGIApp, path: str = EDITS, **fields: str) -> Answer:
    body = multipart(PNG, **({"prompt": "make it red", "stream": "true", "partial_images": "2"} | fields))
    headers = FORM | {"accept": "application/json", "x-request-id": "me"}
    return await call(app, path, method="POST", headers=headers, body=[body])


def picture(event: dict[str, Any]) -> np.ndarray:
    return images.decode(base64.b64decode(event["b64_json"]))


def test_partial_pictures_come_before_the_completed_one(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ray.serve")

    async def main() -> None:
        door = Door((served := gateway()).app())
        answer = await post(door, seed="5")
        assert answer.status == 200 and answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["x-request-id"] == "me" and ROOM not in answer.headers and len(door.crowd.rooms) == 1
        first, second, last = events_of(answer.body)
        common = {"quality": "auto", "background": "auto", "output_format": "png"}
        for index, event in enumerate((first, second)):
            assert event.items() >= {"type": "image_edit.partial_image", "size": "64x64", **common}.items()
            assert event["partial_image_index"] == index and event["created_at"] > 1e9
            assert np.array_equal(picture(event), CANVAS) and find(base64.b64decode(event["b64_json"])).by_ai
        assert last.items() >= {"type": "image_edit.completed", "size": "64x64", **common}.items()
        assert last["usage"]["total_tokens"] == 113 and last["seed"] == 5 and "output_index" not in last
        assert np.array_equal(picture(last), IMAGE)
        assert served.admission.edits == served.bodies.held == 0
        line = json.loads(caplog.messages[-1])
        assert (line["outcome"], line["status"], line["bytes_out"]) == ("ok", 200, len(answer.body))
        assert line["request_id"] == "me" and line["steps"] == 10

    asyncio.run(main())


def test_several_pictures_are_told_apart() -> None:
    watch = Method([Progress(1, 2, 0, [CANVAS] * 2), Painted([IMAGE] * 2, [CHANGED] * 2, times("unet"), 2, 0.01)])
    events = events_of(asyncio.run(post(gateway(watch).app(), n="2", output_format="jpeg")).body)
    kinds = [(event["type"].rpartition(".")[2], event["output_index"]) for event in events]
    assert kinds == [("partial_image", 0), ("partial_image", 1), ("completed", 0), ("completed", 1)]
    assert all(base64.b64decode(event["b64_json"]).startswith(b"\xff\xd8") for event in events)


@pytest.mark.parametrize("fields", [{"partial_images": "4"}, {"stream": "maybe"}, {"n": "0"}, {"prompt": ""}])
def test_a_bad_field_is_answered_before_the_stream_begins(fields: dict[str, str]) -> None:
    answer = asyncio.run(post(gateway().app(), **fields))
    assert (answer.status, answer.error()["param"]) == (400, next(iter(fields)))


@pytest.mark.parametrize(
    ("items", "outcome", "code"),
    [([ActorDiedError()], "unavailable", "unavailable"), ([KeyError("/etc")], "failed", "internal_error")],
)
def test_an_error_in_the_stream_is_its_last_event(
    items: list[Any],
    outcome: str,
    code: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "ray.serve")
    monkeypatch.setattr(flow_module, "PAUSE_S", 0.001)
    answer = asyncio.run(post(gateway(Method([*WATCHED[:2], *items])).app()))
    assert answer.status == 200
    *_, last = events_of(answer.body)
    assert last["type"] == "error" and set(last["error"]) == {"message", "type", "param", "code"}
    assert last["error"]["code"] == code and "/etc" not in last["error"]["message"]
    assert json.loads(caplog.messages[-1])["outcome"] == outcome


def test_a_comment_keeps_a_quiet_stream_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "KEEP_ALIVE_S", 0.05)
    answer = asyncio.run(post(gateway(Method([WATCHED[0], 0.18, WATCHED[-1]])).app()))
    assert answer.body.count(b"\n\n: still at work") + answer.body.startswith(b": ") >= 2
    assert [event["type"] for event in events_of(answer.body)] == ["image_edit.completed"]


@pytest.mark.parametrize("how", ["disconnect", "cancel"])
def test_a_client_that_leaves_stops_the_edit(how: str, caplog: pytest.LogCaptureFixture) -> None:
    """Uvicorn tells of a disconnect, Ray Serve cancels the request."""
    caplog.set_level(logging.INFO, "ray.serve")

    async def main() -> None:
        served = gateway(watch := Method([*WATCHED[:2], 60.0]))
        body, left, sent = multipart(PNG, prompt="x", stream="1"), asyncio.Event(), list[Message]()
        messages: list[Message] = [{"type": "http.request", "body": body}]

        async def receive() -> Message:
            if messages:
                return messages.pop()
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": EDITS, "query_string": b"", "root_path": ""}
        scope["headers"] = [(name.lower().encode(), value.encode()) for name, value in FORM.items()]
        task = asyncio.create_task(served.app()(scope, receive, send))
        while len(sent) < 2:
            await asyncio.sleep(0.01)
        assert served.admission.edits == 1 and served.bodies.held == len(body)
        if how == "disconnect":
            left.set()
        else:
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert [response.is_cancelled for response in watch.responses] == [True]
        assert served.admission.edits == served.bodies.held == 0

    asyncio.run(main())
    assert json.loads(caplog.messages[-1])["outcome"] == "canceled"


@contextmanager
def listening(app: ASGIApp) -> Iterator[str]:
    """Serve an application on a free port of loopback."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def edit(url: str, **more: Any) -> Any:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    extra = {"num_inference_steps": 10, "seed": 5}
    return client.images.edit(
        image=PNG, prompt="make it red", model="nano", stream=True, partial_images=2, extra_body=extra | more
    )


def test_openais_client_reads_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "KEEP_ALIVE_S", 0.02)
    with listening(Door(gateway(Method([0.1, *WATCHED])).app())) as url:
        first, second, last = edit(url)
    assert (first.type, first.partial_image_index, second.partial_image_index) == ("image_edit.partial_image", 0, 1)
    assert (last.type, last.size, last.usage.total_tokens) == ("image_edit.completed", "64x64", 113)
    assert np.array_equal(images.decode(base64.b64decode(last.b64_json)), IMAGE)


def test_openais_client_raises_the_errors_of_a_stream() -> None:
    with listening(Door(gateway(Method([WATCHED[1], KeyError()])).app())) as url:
        events = edit(url)
        assert next(events).type == "image_edit.partial_image"
        with pytest.raises(openai.APIError, match="the server failed") as error:
            next(events)
        assert error.value.code == "internal_error"
        with pytest.raises(openai.BadRequestError, match="partial_images"):
            edit(url, partial_images=9)


@pytest.mark.ray
def test_the_service_streams_the_pictures_of_a_plain_answer(client: Client) -> None:
    first, second, last = edit(client.url)
    assert (first.size, second.partial_image_index, last.type) == ("64x64", 1, "image_edit.completed")
    plain = client.edit(PNG, seed=5, num_inference_steps=10).json()["data"]
    assert np.array_equal(picture(plain[0]), images.decode(base64.b64decode(last.b64_json)))


@pytest.mark.ray
def test_a_client_that_leaves_the_service_stops_its_edit(client: Client) -> None:
    from ray import serve

    painter = serve.get_deployment_handle("UNet", "fireedit")
    begun = painter.load.remote().result()
    events = edit(client.url, num_inference_steps=60, guidance_scale=1.0)
    assert next(events).type == "image_edit.partial_image"
    events.close()
    deadline = time.monotonic() + 10
    while (load := painter.load.remote().result()).running and time.monotonic() < deadline:
        time.sleep(0.02)
    assert load.running == load.waiting == 0 and load.steps - begun.steps < 45, "its second half was not run"
