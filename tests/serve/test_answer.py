"""Bodies of the answers to edits."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fireedit.platform import images
from fireedit.platform.provenance import Signer, SigningConfig
from fireedit.platform.statements import find
from fireedit.serve.answer import Answers, timing_headers
from fireedit.serve.fields import Form, read_request
from fireedit.serve.prompts import served_model
from fireedit.serve.schema import Edited, EditRequest, LimitsConfig, Tokens
from fireedit.serve.stage import StageTimes
from tests.certificates import write_signer

SOURCE = np.full((4, 6, 3), 9, np.uint8)


def requested(source: np.ndarray = SOURCE, files: dict[str, bytes] | None = None, **texts: str) -> EditRequest:
    parts = {"image": images.encode_png(source), **(files or {})}
    form = Form({"prompt": "make it red", **texts}, {name: [file] for name, file in parts.items()})
    return read_request(form, LimitsConfig(), side=8, max_regions=3)


def brighter(request: EditRequest) -> Edited:
    canvas = request.source.canvas + np.uint8(50)
    boxes, scores = np.array([[0, 0, 0.5, 1]], np.float32), np.array([0.25], np.float32)
    changed = np.ones((2, 2), bool)
    return Edited([canvas] * request.n, [changed] * request.n, boxes, scores, Tokens(text=7, image=72, output=32))


def body_of(request: EditRequest) -> dict[str, Any]:
    return Answers(served_model("nano"), None).body(request, brighter(request), "request-1")


def picture_of(body: dict[str, Any]) -> np.ndarray:
    return images.Picture(base64.b64decode(body["data"][0]["b64_json"])).pixels(None)


def test_a_response_has_the_shape_of_openais_with_seeds() -> None:
    body = body_of(requested(seed="5", n="2"))
    assert [data["seed"] for data in body["data"]] == [5, 6] and body["seed"] == 5
    assert all(data["revised_prompt"] is None for data in body["data"])
    assert (picture_of(body) == 59).all()
    assert (body["size"], body["output_format"], body["background"]) == ("6x4", "png", "auto")
    assert body["created"] > 1e9 and "regions" not in body
    assert body["usage"] == {
        "input_tokens": 79,
        "output_tokens": 32,
        "total_tokens": 111,
        "input_tokens_details": {"text_tokens": 7, "image_tokens": 72},
    }


def test_regions_are_added_on_request() -> None:
    assert body_of(requested(return_regions="true"))["regions"] == [{"box": [0, 0, 0.5, 1], "score": 0.25}]


def test_results_are_of_the_format_and_size_asked_for() -> None:
    for name, start in (("jpeg", b"\xff\xd8"), ("webp", b"RIFF"), ("png", b"\x89PNG")):
        body = body_of(requested(output_format=name, size="12x8"))
        assert base64.b64decode(body["data"][0]["b64_json"]).startswith(start)
        assert body["size"] == "12x8" and picture_of(body).shape == (8, 12, 3)


def test_outside_a_mask_the_answer_has_the_sources_pixels() -> None:
    mask = np.full((4, 6, 4), 255, np.uint8)
    mask[1:3, 2:4, 3] = 0
    result = picture_of(body_of(requested(files={"mask": images.encode_png(mask)})))
    assert (result[mask[..., 3] == 0] == 59).all() and (result[mask[..., 3] == 255] == 9).all()


def test_transparency_comes_back_unless_the_answer_is_opaque() -> None:
    clear = np.dstack([SOURCE, np.arange(24, dtype=np.uint8).reshape(4, 6)])
    np.testing.assert_array_equal(picture_of(body_of(requested(clear)))[..., 3], clear[..., 3])
    for fields in ({"background": "opaque"}, {"output_format": "jpeg"}):
        body = body_of(requested(clear, **fields))
        assert picture_of(body).shape == (4, 6, 3) and body["background"] == "opaque"


def test_headers_tell_steps_and_the_time_of_each_stage() -> None:
    headers = timing_headers([StageTimes("vlm", 0.1, 0.02), StageTimes("unet", 0.2, 0.5)], 10)
    assert headers == {"x-fireedit-steps": "10", "server-timing": "queue;dur=300.0, vlm;dur=20.0, unet;dur=500.0"}


@pytest.mark.parametrize("name", ["png", "jpeg", "webp"])
def test_results_say_that_an_ai_edited_them_and_how(name: str, tmp_path: Path) -> None:
    request = requested(seed="5", output_format=name, num_inference_steps="7", negative_prompt="secret")
    files = write_signer(tmp_path)
    signer = Signer.load(SigningConfig(certificate=files.certificate, key=files.key))
    for each in (None, signer):
        (file,) = Answers(served_model("nano"), each).files(request, brighter(request), "request-1")
        found = find(file)
        assert found.by_ai and found.facts["request_id"] == "request-1" and found.facts["seed"] == "5"
        assert json.loads(found.facts["settings"])["num_inference_steps"] == 7
        assert found.facts["weights"].startswith("sha256:") and b"secret" not in file
        assert found.manifest is None if each is None else found.manifest and found.manifest.state == "intact"
