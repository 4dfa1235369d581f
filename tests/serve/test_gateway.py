"""The HTTP API: its error envelope, its limits, and that no request brings it down."""

import asyncio
import base64
import itertools
import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import ray.util
import requests

from fireedit.models.model import preset
from fireedit.platform import images
from fireedit.serve.door import Door
from fireedit.serve.envelope import QUEUE_FULL, ROOM
from fireedit.serve.gateway import Gateway, ServiceConfig
from fireedit.serve.keys import VARIABLE, make_key
from fireedit.serve.prompts import served_model
from fireedit.serve.safety import SafetyCase
from fireedit.serve.schema import LimitsConfig
from fireedit.serve.stage import Stages
from tests.serve.asgi import FORM, Answer, call, multipart
from tests.serve.conftest import MAX_BYTES, Client
from tests.serve.standins import stages

ROOT = Path(__file__).parents[2]
EDITS = "/v1/images/edits"
IMAGE = np.zeros((8, 12, 3), np.uint8)
PNG = images.encode_png(IMAGE)
PART = b'--b\r\nContent-Disposition: form-data; name="image"; filename="../../etc/x"\r\n\r\n'


def test_import_loads_no_torch() -> None:
    code = "import sys, fireedit.serve.gateway; sys.exit(bool({'torch', 'transformers', 'diffusers'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def serve(work: Callable[[Gateway], Coroutine[Any, Any, Any]], **limits: Any) -> Any:
    """Run `work` with a gateway that has no stages to call."""

    async def main() -> Any:
        config = ServiceConfig(model_name="nano", limits=LimitsConfig(**limits))
        gateway = Gateway(Stages(unet=None), served_model("nano"), config)
        return await work(gateway)

    return asyncio.run(main())


def post(
    gateway: Gateway, body: bytes, headers: dict[str, str] | None = None, **how: Any
) -> Coroutine[Any, Any, Answer]:
    return call(gateway.app(), EDITS, method="POST", headers=FORM | (headers or {}), body=[body], **how)


def test_probes_and_models_answer_get_and_head() -> None:
    async def work(gateway: Gateway) -> None:
        for method, path in itertools.product(("GET", "HEAD"), ("/health", "/ready", "/v1/models", "/v1/models/nano")):
            assert (await call(gateway.app(), path, method=method)).status == 200, path
        listed = json.loads((await call(gateway.app(), "/v1/models")).body)["data"]
        assert [(model["id"], model["object"]) for model in listed] == [("nano", "model")]
        for path in ("/v1/models/other", "/v1/models/", "/v1/images/edits/", "/x"):
            answer = await call(gateway.app(), path)
            assert (answer.status, answer.error()["code"]) == (404, "not_found")
        assert (await call(gateway.app(), EDITS)).status == 405

    serve(work)


def test_bad_fields_are_named_before_the_picture_is_decoded() -> None:
    async def work(gateway: Gateway) -> None:
        long_prompt = "red " * 500  # more tokens than nano's VLM reads
        for param, fields in {"n": {"n": "0"}, "num_inference_steps": {"num_inference_steps": "many"}}.items():
            assert (await post(gateway, multipart(b"GIF89a", prompt="x", **fields))).error()["param"] == param
        answer = await post(gateway, multipart(b"GIF89a", prompt=long_prompt))
        assert (answer.status, answer.error()["code"]) == (400, "string_above_max_length")
        for bad in ("0", "soon"):
            for header in ("x-request-timeout-seconds", "x-request-deadline"):  # the latter by a client, past the proxy
                answer = await post(gateway, multipart(PNG, prompt="x"), {header: bad})
                assert answer.status == 400 and answer.error()["param"] == "x-request-timeout-seconds"
        assert gateway.admission.edits == gateway.bodies.held == gateway.bodies.reading == 0

    serve(work)


def test_full_queue_refuses_before_the_body_is_read() -> None:
    async def work(gateway: Gateway) -> None:
        with gateway.admission.admit(10**6):
            answer = await post(gateway, multipart(PNG, prompt="x")[:30], is_complete=False)
        assert (answer.status, answer.error()["type"]) == (429, "rate_limit_error") and answer.seconds < 0.05
        assert int(answer.headers["retry-after"]) > 0 and answer.headers[QUEUE_FULL] == "1"

    serve(work, max_queue_s=0.01)


def test_every_answer_to_an_edit_tells_the_proxy_how_many_more_have_room() -> None:
    async def work(gateway: Gateway) -> None:
        door, rooms = Door(gateway.app()), list[int]()
        for edits in (0, 2, 52):
            with ExitStack() as stack:
                for _ in range(edits):
                    stack.enter_context(gateway.admission.admit(38))
                answer = await call(door, EDITS, method="POST", headers=FORM, body=[multipart(b"GIF89a", prompt="x")])
            assert ROOM not in answer.headers
            ((room, _),) = door.crowd.rooms.values()
            rooms.append(room)
        assert rooms[0] > rooms[1] > 10 > rooms[2]

    serve(work, max_queue_s=1e3, unit_s=0.5)


def test_deadline_refuses_or_ends_an_edit_in_the_envelope() -> None:
    async def work(gateway: Gateway) -> None:
        with gateway.admission.admit(10**6):
            answer = await post(gateway, multipart(PNG, prompt="x"), {"x-request-timeout-seconds": "0.05"})
            assert (answer.status, answer.error()["code"]) == (
                429,
                "too_many_requests",
            ) and QUEUE_FULL not in answer.headers
        answer = await post(gateway, PART, {"x-request-timeout-seconds": "0.05"}, is_complete=False)
        assert (answer.status, answer.error()["code"]) == (408, "timeout")
        assert answer.headers["x-should-retry"] == "false"

    serve(work)


def test_unfinished_bodies_hold_no_place_in_the_queue() -> None:
    async def work(gateway: Gateway) -> None:
        slow = [asyncio.create_task(post(gateway, PART, is_complete=False)) for _ in range(40)]
        await asyncio.sleep(0.1)
        assert (gateway.bodies.reading, gateway.admission.edits) == (40, 0)
        assert (await call(gateway.app(), "/health")).seconds < 0.05
        assert (await post(gateway, multipart(b"no", prompt="x"))).status == 400
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)
        assert gateway.bodies.reading == gateway.bodies.held == 0

    serve(work)


def test_key_is_asked_for_where_keys_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    secret, line = make_key("ann", quota=3)
    monkeypatch.setenv(VARIABLE, line)

    async def work(gateway: Gateway) -> None:
        assert (await call(gateway.app(), "/health")).status == (await call(gateway.app(), "/ready")).status == 200
        for wrong in ({}, {"Authorization": "Bearer wrong"}):
            answer = await post(gateway, PART, wrong, is_complete=False)
            assert (answer.status, answer.error()["code"]) == (401, "invalid_api_key")
            assert (await call(gateway.app(), "/v1/models", headers=wrong)).status == 401
        right = {"Authorization": f"Bearer {secret}"}
        assert (await call(gateway.app(), "/v1/models", headers=right)).status == 200
        assert [(await post(gateway, b"", right)).status for _ in range(3)] == [400, 400, 429]
        answer = await call(gateway.app(), "/v1/models", headers=right)
        assert (answer.error()["code"], answer.headers["x-should-retry"]) == ("insufficient_quota", "false")

    serve(work)


def test_each_edit_writes_one_line_and_nothing_that_the_client_wrote(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ray.serve")
    secret = "s3cret\n{evil"
    headers = {"x-request-id": secret, "authorization": secret, "user-agent": secret}
    serve(lambda gateway: post(gateway, multipart(b"no " + secret.encode(), prompt=secret, n=secret), headers))
    serve(lambda gateway: post(gateway, multipart(b"no", prompt="x"), {"x-request-id": "good-id"}))
    serve(lambda gateway: post(gateway, b"no form"))
    assert "evil" not in caplog.text and "s3cret" not in caplog.text
    lines = [json.loads(record.message) for record in caplog.records if record.name == "ray.serve"]
    assert [(line["event"], line["outcome"], line["status"]) for line in lines] == [("edit", "invalid", 400)] * 3
    assert lines[1]["request_id"] == "good-id" and lines[1]["bytes_in"] > 0 < lines[1]["bytes_out"]
    assert lines[2]["bytes_in"] == len(b"no form")


def assert_error(response: requests.Response, status: int, param: str | None = None) -> None:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param and error["code"] and 10 < len(error["message"]) < 300
    assert response.headers["x-request-id"]


@pytest.mark.ray
def test_bad_requests_get_an_envelope_and_the_next_good_one_an_image(client: Client) -> None:
    edits, post = f"{client.url}/v1/images/edits", partial(client.session.post, timeout=30)
    assert_error(client.edit(b"GIF89a no"), 400, "image")
    assert_error(client.edit(images.encode_png(IMAGE)[:40]), 400, "image")
    assert_error(client.edit(IMAGE, prompt=""), 400, "prompt")
    assert_error(client.edit(IMAGE, prompt="red " * 500), 400, "prompt")  # more tokens than nano's VLM reads
    for param, value in (("n", "many"), ("seed", "-1"), ("stream", "maybe"), ("guidance_scale", "nan")):
        assert_error(client.edit(IMAGE, **{param: value}), 400, param)
    two = [("image[]", images.encode_png(IMAGE))] * 2
    assert_error(post(edits, data={"prompt": "x"}, files=two), 400, "image")
    mask = {"image": images.encode_png(IMAGE), "mask": images.encode_png(IMAGE)}
    assert_error(post(edits, data={"prompt": "x"}, files=mask), 400, "mask")
    assert_error(post(edits, json={"prompt": "x"}), 400, "image")
    assert_error(post(edits, headers={"Content-Type": "multipart/form-data"}, data=b"x"), 400)
    assert_error(post(edits, headers=FORM, data=b"no form"), 400)
    assert_error(post(edits, headers=FORM, data=PART + b"cut"), 400, "prompt")
    assert_error(post(edits), 400)
    assert_error(client.get("/v1/images/edits"), 405)
    assert_error(client.get("/v1/images"), 404)
    assert_error(post(f"{client.url}/v1/images/generations", json={"prompt": "x"}), 404)
    good = client.edit(IMAGE, num_inference_steps=1)
    assert good.status_code == 200, good.text
    assert images.decode(base64.b64decode(good.json()["data"][0]["b64_json"])).shape == IMAGE.shape


@pytest.mark.ray
def test_too_long_a_body_is_not_read_to_its_end(client: Client) -> None:
    """The body is sent in chunks, so that no Content-Length gives its size."""
    body = itertools.chain([PART], itertools.repeat(bytes(MAX_BYTES // 10), 100))
    # A client that is still writing when the response arrives may see the closed connection only.
    with suppress(requests.ConnectionError):
        response = client.session.post(f"{client.url}/v1/images/edits", headers=FORM, data=body, timeout=30)
        assert_error(response, 400, "image")
    assert client.get("/health").status_code == 200


@pytest.mark.ray
def test_flood_gets_images_or_refusals_with_retry_after(client: Client) -> None:
    with ThreadPoolExecutor(60) as pool:
        responses = list(pool.map(lambda _: client.edit(IMAGE, num_inference_steps=30), range(60)))
    busy = [response for response in responses if response.status_code != 200]
    assert 0 < len(busy) < 60
    for response in busy:
        assert_error(response, 429)
        assert int(response.headers["retry-after"]) > 0 and QUEUE_FULL not in response.headers
    assert client.edit(IMAGE, num_inference_steps=1).status_code == 200


@pytest.mark.ray
def test_probes_and_ids_reach_the_gateway_through_the_proxy(client: Client) -> None:
    for path in ("/health", "/ready"):
        assert client.get(path).json() == {"status": "ok"}
        assert client.session.head(client.url + path, timeout=10).status_code == 200
    response = client.session.get(f"{client.url}/nowhere", headers={"x-request-id": "a b"}, timeout=10)
    assert_error(response, 404)
    assert len(response.headers["x-request-id"]) == 36
    (model,) = client.get("/v1/models").json()["data"]
    assert (model["id"], model["object"]) == ("fireedit", "model")


@pytest.mark.ray
@pytest.mark.slow
def test_edits_survive_the_death_of_their_replicas(client: Client) -> None:
    with ThreadPoolExecutor(4) as pool:
        responses = [pool.submit(client.edit, IMAGE, num_inference_steps=30) for _ in range(4)]
        time.sleep(0.5)
        for actor in ray.util.list_named_actors(all_namespaces=True):
            if any(f"#{name}#" in actor["name"] for name in ("Detector", "VLM", "UNet")):
                ray.kill(ray.get_actor(actor["name"], actor["namespace"]))
        assert [response.result().status_code for response in responses] == [200] * 4
    assert client.get("/ready").status_code == 200


def stood_in(work: Callable[[Gateway], Coroutine[Any, Any, Any]], **config: Any) -> Any:
    """Run `work` with a gateway whose stages answer at once."""

    async def main() -> Any:
        made = Gateway(stages(), served_model("nano"), ServiceConfig(model_name="nano", **config))
        made.flow.put = lambda canvas: canvas
        return await work(made)

    return asyncio.run(main())


def test_hugging_faces_client_gets_the_bare_picture() -> None:
    async def work(gateway: Gateway) -> None:
        parameters = {"prompt": "red", "num_inference_steps": 3, "seed": 7, "target_size": {"width": 6, "height": 4}}
        body = json.dumps({"inputs": base64.b64encode(PNG).decode(), "parameters": parameters}).encode()
        for accept, start in (("image/png", b"\x89PNG"), ("image/webp", b"RIFF"), ("*/*", b"\x89PNG")):
            headers = {"Content-Type": "application/json", "Accept": accept}
            answer = await call(gateway.app(), "/models/nano", method="POST", headers=headers, body=[body])
            assert answer.status == 200 and answer.body.startswith(start)
            assert images.decode(answer.body).shape == (4, 6, 3)
            assert (answer.headers["x-fireedit-seed"], answer.headers["x-fireedit-steps"]) == ("7", "10")
        bare = await call(
            gateway.app(), "/models/nano", method="POST", headers={"Content-Type": "image/png"}, body=[PNG]
        )
        assert (bare.status, bare.error()["param"]) == (400, "prompt")
        assert (await call(gateway.app(), "/models/other", method="POST", body=[PNG])).status == 404

    stood_in(work)


def test_an_answer_tells_seeds_steps_and_the_time_of_each_stage() -> None:
    async def work(gateway: Gateway) -> None:
        answer = await post(gateway, multipart(PNG, prompt="x", seed="5"))
        assert answer.headers["server-timing"].split(", ")[1:] == [
            "detector;dur=200.0",
            "vlm;dur=200.0",
            "unet;dur=200.0",
        ]
        body = json.loads(answer.body)
        assert [each["seed"] for each in body["data"]] == [5] and body["usage"]["total_tokens"] == 113

    stood_in(work)


def test_the_safety_function_may_refuse_before_and_after_the_edit() -> None:
    async def work(gateway: Gateway) -> None:
        for prompt, calls in (("not this one", 0), ("dark results", 1), ("fine", 2)):
            answer = await post(gateway, multipart(PNG, prompt=prompt))
            assert len(gateway.flow.stages.unet.edit.calls) == calls
            if prompt == "fine":
                assert answer.status == 200
            else:
                assert (answer.status, answer.error()["code"]) == (400, "moderation_blocked")
        assert gateway.admission.edits == 0

    stood_in(work, safety=f"{__name__}:no_dark_results")


def no_dark_results(case: SafetyCase) -> str | None:
    if "not this" in case.instruction:
        return "not this one"
    return "it is dark" if "dark" in case.instruction and case.result is not None and case.result.mean() < 20 else None


def test_the_model_and_the_api_are_described_to_everybody_who_asks() -> None:
    async def work(gateway: Gateway) -> None:
        model = json.loads((await call(gateway.app(), "/v1/models/nano")).body)
        assert model["canvas"] == 64 and model["limits"]["max_images"] == 10
        steps = next(each for each in model["settings"] if each["name"] == "num_inference_steps")
        assert (steps["type"], steps["default"], steps["minimum"]) == (
            "integer",
            preset("nano").painting.num_inference_steps,
            1,
        )
        assert json.loads((await call(gateway.app(), "/openapi.json")).body)["openapi"].startswith("3.1")
        assert b"POST /v1/images/edits" in (await call(gateway.app(), "/docs")).body
        generations = await call(gateway.app(), "/v1/images/generations", method="POST")
        assert (generations.status, generations.error()["code"]) == (404, "not_found")

    stood_in(work)
