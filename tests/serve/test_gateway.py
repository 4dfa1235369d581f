"""The HTTP API: its error envelope, its limits, and that no request brings it down."""

import base64
import itertools
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import ray
import ray.util
import requests

from fireedit.platform import images
from tests.serve.conftest import MAX_BYTES, MAX_EDITS, Client

ROOT = Path(__file__).parents[2]
IMAGE = np.zeros((8, 12, 3), np.uint8)
FORM = {"Content-Type": "multipart/form-data; boundary=b"}
PART = b'--b\r\nContent-Disposition: form-data; name="image"; filename="../../etc/x"\r\n\r\n'


def test_import_loads_no_torch() -> None:
    code = "import sys, fireedit.serve.gateway; sys.exit(bool({'torch', 'transformers', 'diffusers'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


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
    for param, value in (("n", "many"), ("seed", "-1"), ("stream", "true"), ("guidance_scale", "nan")):
        assert_error(client.edit(IMAGE, **{param: value}), 400, param)
    two = [("image[]", images.encode_png(IMAGE))] * 2
    assert_error(post(edits, data={"prompt": "x"}, files=two), 400, "image")
    mask = {"image": images.encode_png(IMAGE), "mask": images.encode_png(IMAGE)}
    assert_error(post(edits, data={"prompt": "x"}, files=mask), 400, "mask")
    assert_error(post(edits, json={"prompt": "x"}), 400)
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
def test_too_many_edits_are_answered_with_retry_after(client: Client) -> None:
    with ThreadPoolExecutor(2 * MAX_EDITS) as pool:
        responses = list(pool.map(lambda _: client.edit(IMAGE, num_inference_steps=10), range(2 * MAX_EDITS)))
    busy = [response for response in responses if response.status_code != 200]
    assert 0 < len(busy) <= MAX_EDITS
    for response in busy:
        assert_error(response, 429)
        assert int(response.headers["retry-after"]) > 0
    assert client.edit(IMAGE, num_inference_steps=1).status_code == 200


@pytest.mark.ray
def test_health_and_model_are_reported(client: Client) -> None:
    assert client.get("/health").json() == {"status": "ok"}
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
        assert client.get("/health").status_code == 503
        assert [response.result().status_code for response in responses] == [200] * 4
    assert client.get("/health").status_code == 200
