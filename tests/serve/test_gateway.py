"""The HTTP face: its envelope, its limits, and that no request brings it down."""

import base64
import itertools
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import ray
import ray.util
import requests

from fireedit.platform import images
from tests.serve.conftest import MAX_BYTES, MAX_EDITS, Client

ROOT = Path(__file__).parents[2]
PICTURE = np.zeros((8, 12, 3), np.uint8)
FORM = {"Content-Type": "multipart/form-data; boundary=b"}
PART = b'--b\r\nContent-Disposition: form-data; name="image"; filename="../../etc/x"\r\n\r\n'


def test_it_loads_without_torch() -> None:
    code = "import sys, fireedit.serve.gateway; sys.exit(bool({'torch', 'transformers', 'diffusers'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def refused(answer: requests.Response, status: int, param: str | None = None) -> None:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param and error["code"] and 10 < len(error["message"]) < 300
    assert answer.headers["x-request-id"]


@pytest.mark.ray
def test_every_bad_request_gets_an_envelope_and_the_next_good_one_a_picture(client: Client) -> None:
    edits = f"{client.url}/v1/images/edits"
    refused(client.edit(b"GIF89a no"), 400, "image")
    refused(client.edit(images.encode_png(PICTURE)[:40]), 400, "image")
    refused(client.edit(PICTURE, prompt=""), 400, "prompt")
    refused(client.edit(PICTURE, prompt="red " * 500), 400, "prompt")  # more tokens than nano's VLM reads
    for param, value in (("n", "many"), ("seed", "-1"), ("stream", "true"), ("guidance_scale", "nan")):
        refused(client.edit(PICTURE, **{param: value}), 400, param)
    two = [("image[]", images.encode_png(PICTURE))] * 2
    refused(requests.post(edits, data={"prompt": "x"}, files=two, timeout=30), 400, "image")
    mask = {"image": images.encode_png(PICTURE), "mask": images.encode_png(PICTURE)}
    refused(requests.post(edits, data={"prompt": "x"}, files=mask, timeout=30), 400, "mask")
    refused(requests.post(edits, json={"prompt": "x"}, timeout=30), 400)
    refused(requests.post(edits, headers={"Content-Type": "multipart/form-data"}, data=b"x", timeout=30), 400)
    refused(requests.post(edits, headers=FORM, data=b"nothing of the kind", timeout=30), 400)
    refused(requests.post(edits, headers=FORM, data=PART + b"cut", timeout=30), 400, "prompt")
    refused(requests.post(edits, timeout=30), 400)
    refused(requests.get(edits, timeout=30), 405)
    refused(client.get("/v1/images"), 404)
    refused(requests.post(f"{client.url}/v1/images/generations", json={"prompt": "x"}, timeout=30), 404)
    good = client.edit(PICTURE, num_inference_steps=1)
    assert good.status_code == 200, good.text
    assert images.decode(base64.b64decode(good.json()["data"][0]["b64_json"])).shape == PICTURE.shape


@pytest.mark.ray
def test_a_body_that_is_too_long_is_not_read_to_its_end(client: Client) -> None:
    """Sent in chunks, so that no Content-Length gives it away."""
    body = itertools.chain([PART], itertools.repeat(bytes(MAX_BYTES // 10), 100))
    # A client that is still writing when the answer comes may see the closed connection only.
    with suppress(requests.ConnectionError):
        refused(requests.post(f"{client.url}/v1/images/edits", headers=FORM, data=body, timeout=30), 400, "image")
    assert client.get("/health").status_code == 200


@pytest.mark.ray
def test_a_flood_is_told_when_to_come_back(client: Client) -> None:
    with ThreadPoolExecutor(2 * MAX_EDITS) as pool:
        answers = list(pool.map(lambda _: client.edit(PICTURE, num_inference_steps=10), range(2 * MAX_EDITS)))
    busy = [answer for answer in answers if answer.status_code != 200]
    assert 0 < len(busy) <= MAX_EDITS
    for answer in busy:
        refused(answer, 429)
        assert int(answer.headers["retry-after"]) > 0
    assert client.edit(PICTURE, num_inference_steps=1).status_code == 200


@pytest.mark.ray
def test_it_tells_its_health_and_its_model(client: Client) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    (model,) = client.get("/v1/models").json()["data"]
    assert (model["id"], model["object"]) == ("fireedit", "model")


@pytest.mark.ray
@pytest.mark.slow
def test_edits_outlive_the_replicas_that_work_on_them(client: Client) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(client.edit, PICTURE, num_inference_steps=30) for _ in range(4)]
        time.sleep(0.5)
        for actor in ray.util.list_named_actors(all_namespaces=True):
            if any(f"#{part}#" in actor["name"] for part in ("Detector", "VLM", "UNet")):
                ray.kill(ray.get_actor(actor["name"], actor["namespace"]))
        assert client.get("/health").status_code == 503
        assert [answer.result().status_code for answer in answers] == [200] * 4
    assert client.get("/health").status_code == 200
