"""Edits that their clients come back for: state, events, cancelling, and gateways that die or leave."""

import asyncio
import base64
import json
import logging
import os
import time
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest
import ray

from fireedit.platform import images
from fireedit.serve import store as store_module
from fireedit.serve.gateway import Gateway
from fireedit.serve.keys import VARIABLE, make_key
from fireedit.serve.store import EditsConfig
from tests.serve.asgi import FORM, Answer, call, multipart
from tests.serve.conftest import Client
from tests.serve.standins import IMAGE, WATCHED, Method, gateway
from tests.serve.test_streaming import events_of, picture

PNG = images.encode_png(IMAGE)
SLOW = [*WATCHED[:2], 60.0]


async def post(served: Gateway, key: str = "", **fields: str) -> Answer:
    body = multipart(PNG, **({"prompt": "s3cret", "partial_images": "2"} | fields))
    headers = FORM | {"authorization": key, "x-request-id": "me"}
    return await call(served.app(), "/v1/edits", method="POST", headers=headers, body=[body])


async def ask(served: Gateway, path: str, method: str = "GET", key: str = "") -> Answer:
    return await call(served.app(), path, method=method, headers={"authorization": key})


async def ended(served: Gateway, path: str) -> dict[str, Any]:
    """Wait for the end of an edit; returns its last state."""
    while (state := json.loads((await ask(served, path)).body))["status"] in ("queued", "running"):
        await asyncio.sleep(0.02)
    return state


def run(work: Callable[..., Coroutine[Any, Any, None]], *arguments: Any) -> None:
    asyncio.run(asyncio.wait_for(work(*arguments), 30))


def test_an_edit_is_taken_and_its_result_fetched_later(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ray.serve")

    async def main() -> None:
        served = gateway()
        answer = await post(served)
        state, path = json.loads(answer.body), answer.headers["location"]
        assert answer.status == 202 and path == f"/v1/edits/{state['id']}" and "x-room" in answer.headers
        assert state.items() >= {"object": "edit", "status": "queued", "queue_position": 0, "step": 0}.items()
        done = await ended(served, path)
        assert (done["status"], done["step"], done["error"]) == ("completed", 6, None)
        image = base64.b64decode(done["result"]["data"][0]["b64_json"])
        assert np.array_equal(images.decode(image), IMAGE) and done["result"]["size"] == "64x64"
        await served.edits.drain()
        assert served.admission.edits == served.bodies.held == 0
        assert json.loads((await ask(served, path, "DELETE")).body)["status"] == "completed"
        assert (await ask(served, path)).error()["code"] == "not_found"

    run(main)
    line = json.loads(caplog.messages[-1])
    assert (line["request_id"], line["outcome"], line["status"]) == ("me", "ok", 200) and line["bytes_out"] > 0
    assert len(caplog.messages) == 1 and "s3cret" not in caplog.text


def test_events_tell_the_progress_the_partial_pictures_and_the_result() -> None:
    async def main() -> None:
        served = gateway(Method([0.05, WATCHED[0], 0.3, *WATCHED[1:]]))
        path = (await post(served)).headers["location"]
        answer = await ask(served, f"{path}/events")
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = events_of(answer.body)
        kinds = [event["type"] for event in events]
        assert kinds[0] == "edit.progress" and "result" not in events[0]
        assert [event["partial_image_index"] for event in events if "partial" in event["type"]] == [0, 1]
        assert kinds[-1] == "image_edit.completed" and np.array_equal(picture(events[-1]), IMAGE)
        late = events_of((await ask(served, f"{path}/events")).body)
        assert late == [event for event in events if event["type"] != "edit.progress"]

    run(main)


def test_a_failed_edit_tells_its_error() -> None:
    async def main() -> None:
        served = gateway(Method([KeyError("/etc")]))
        path = (await post(served)).headers["location"]
        state = await ended(served, path)
        assert state["status"] == "failed" and state["error"]["code"] == "internal_error"
        (event,) = events_of((await ask(served, f"{path}/events")).body)
        assert event == {"type": "error", "error": state["error"]} and "/etc" not in event["error"]["message"]

    run(main)


def test_a_canceled_edit_stops_soon(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ray.serve")

    async def main() -> None:
        served = gateway(watch := Method(SLOW))
        path = (await post(served)).headers["location"]
        following = asyncio.create_task(ask(served, f"{path}/events"))
        await asyncio.sleep(0.3)
        answer = await ask(served, path, "DELETE")
        assert (answer.status, json.loads(answer.body)["status"]) == (200, "canceled")
        begun = time.monotonic()
        await served.edits.drain()
        assert time.monotonic() - begun < 2 and [response.is_cancelled for response in watch.responses] == [True]
        assert events_of((await following).body)[-1]["type"] == "edit.canceled"
        assert (await ended(served, path))["status"] == "canceled"
        assert served.admission.edits == served.bodies.held == 0

    run(main)
    assert json.loads(caplog.messages[-1])["outcome"] == "canceled"


def test_only_the_key_that_made_an_edit_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    (ann, first), (bob, second) = make_key("ann", quota=1), make_key("bob")
    monkeypatch.setenv(VARIABLE, f"{first}\n{second}")

    async def main() -> None:
        served = gateway()
        path = (await post(served, f"Bearer {ann}")).headers["location"]
        for method, each in (("GET", path), ("DELETE", path), ("GET", f"{path}/events")):
            assert (await ask(served, each, method, f"Bearer {bob}")).status == 404
            assert (await ask(served, each, method)).status == 401
        for _ in range(3):  # beyond the quota: questions count as no edit
            assert (await ask(served, path, key=f"Bearer {ann}")).status == 200
        assert (await post(served, f"Bearer {ann}")).status == 429
        await served.edits.drain()

    run(main)


def test_a_bad_edit_and_one_too_many_are_refused() -> None:
    async def main() -> None:
        served = gateway(Method(SLOW), EditsConfig(max_bytes=2_000))
        for param, value in {"n": "0", "partial_images": "4", "prompt": ""}.items():
            assert (await post(served, **{param: value})).error()["param"] == param
        path = (await post(served)).headers["location"]
        answer = await post(served)
        assert (answer.status, answer.error()["code"]) == (429, "too_many_requests")
        assert served.admission.edits == 1
        full = gateway(max_queue_s=0.01)
        with full.admission.admit(10**6):
            assert (await post(full)).error()["code"] == "too_many_requests"
        await ask(served, path, "DELETE")
        await served.edits.drain()
        assert (await ask(served, "/v1/edits/edit_0")).error()["code"] == "not_found"
        assert (await ask(served, path, "PUT")).status == (await ask(served, "/v1/edits")).status == 405

    run(main)


def test_an_edit_of_a_dead_gateway_is_run_by_the_next_that_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "LEASE_S", 0.6)
    dead, alive = gateway(Method(SLOW)), gateway(again := Method(WATCHED))
    alive.edits.store = dead.edits.store

    async def die() -> str:
        path = (await post(dead)).headers["location"]
        await asyncio.sleep(0.4)
        state = json.loads((await ask(alive, path)).body)
        assert (state["status"], state["step"]) == ("running", 3) and not again.calls
        return path

    async def follow(path: str) -> None:
        events = events_of((await ask(alive, f"{path}/events")).body)
        assert [event["partial_image_index"] for event in events if "partial" in event["type"]] == [0, 1]
        seeds = [call[-1].seeds for call in (*dead.flow.stages.unet.watch.calls, *again.calls)]
        assert len(seeds) == 2 and seeds[0] == seeds[1] == (events[-1]["seed"],)
        assert alive.admission.edits == alive.bodies.held == 0

    run(follow, asyncio.run(die()))


def test_an_edit_that_finds_no_place_again_waits_for_the_next_question(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "LEASE_S", 0.1)
    dead, alive = gateway(Method(SLOW)), gateway(max_queue_s=0.01)
    alive.edits.store = dead.edits.store

    async def die() -> str:
        return (await post(dead)).headers["location"]

    async def wait(path: str) -> None:
        await asyncio.sleep(0.2)
        with alive.admission.admit(10**6):
            await ask(alive, path)
            await alive.edits.drain()
            assert json.loads((await ask(alive, path)).body)["status"] == "queued"
            await alive.edits.drain()
        assert (await ended(alive, path))["status"] == "completed"

    run(wait, asyncio.run(die()))


def test_a_gateway_that_leaves_finishes_its_edits() -> None:
    async def main() -> None:
        served = gateway(Method([0.2, *WATCHED]))
        messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
        path, sent = (await post(served)).headers["location"], list[str]()

        async def receive() -> Any:
            return messages.pop(0)

        async def send(message: Any) -> None:
            sent.append(message["type"])

        await served.app()({"type": "lifespan", "state": {}}, receive, send)
        assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
        assert json.loads((await ask(served, path)).body)["status"] == "completed"

    run(main)


@pytest.mark.ray
def test_gateways_share_their_edits_also_when_one_or_the_store_dies(ray_session: None) -> None:
    first, second = gateway(watch := Method(SLOW, SLOW, WATCHED)), gateway(again := Method(WATCHED))

    async def share() -> str:
        for each in (first, second):
            each.edits.store.share()
        path = (await post(first)).headers["location"]
        following = asyncio.create_task(ask(second, f"{path}/events"))
        await asyncio.sleep(1)
        assert json.loads((await ask(second, path, "DELETE")).body)["status"] == "canceled"
        kinds = [event["type"] for event in events_of((await following).body)]
        assert {"edit.progress", "image_edit.partial_image"} < set(kinds) and kinds[-1] == "edit.canceled"
        await first.edits.drain()
        assert [response.is_cancelled for response in watch.responses] == [True]
        path = (await post(first)).headers["location"]
        store = ray.get_actor("fireedit-edits", namespace="serve")
        died = await store.__ray_call__.remote(lambda _: os.getpid())
        ray.kill(store, no_restart=False)
        while await store.__ray_call__.remote(lambda _: os.getpid()) == died:
            await asyncio.sleep(0.1)
        while (await ask(second, path)).status != 200:  # until the first gateway has told the new store
            await asyncio.sleep(0.1)
        return path

    async def follow(path: str) -> None:
        assert (await ended(second, path))["status"] == "completed" and len(again.calls) == 1

    run(follow, asyncio.run(asyncio.wait_for(share(), 60)))


@pytest.mark.ray
def test_the_service_takes_edits_and_gives_the_pictures_of_a_plain_answer(client: Client) -> None:

    def take(steps: int) -> str:
        form = {"prompt": "make it red", "seed": "5", "num_inference_steps": str(steps)}
        answer = client.session.post(f"{client.url}/v1/edits", data=form, files={"image": PNG}, timeout=30)
        assert answer.status_code == 202, answer.text
        return answer.headers["location"]

    path = take(steps=4)
    *_, last = events_of(client.get(f"{path}/events").content)
    plain = client.edit(PNG, seed=5, num_inference_steps=4).json()["data"]
    fetched = client.get(path).json()["result"]["data"][0]
    first, *others = (images.decode(base64.b64decode(each["b64_json"])) for each in (plain[0], last, fetched))
    assert all(np.array_equal(first, other) for other in others)
    path = take(steps=900)
    assert client.session.delete(client.url + path, timeout=30).json()["status"] == "canceled"
    assert client.get(path).json()["status"] == "canceled"
