"""Requests in JSON, as the forms that they stand for."""

import base64
import json
from typing import Any

import pytest

from fireedit.serve.json_body import hugging_face_form, json_form
from fireedit.serve.schema import BadRequest

PICTURE = b"\x89PNG picture"
BASE64 = base64.b64encode(PICTURE).decode()
URL = f"data:image/png;base64,{BASE64}"


def test_openais_fields_are_read_as_a_form_sends_them() -> None:
    fields = {"prompt": "make it red", "n": 2, "stream": True, "guidance_scale": 2.5, "seed": None, "size": "auto"}
    body = fields | {"images": [{"image_url": URL}], "mask": {"image_url": URL}, "regions": [[0, 0, 1, 0.5]]}
    form = json_form(json.dumps(body).encode())
    assert form.files == {"image": [PICTURE], "mask": [PICTURE]}
    assert form.texts == {
        "prompt": "make it red",
        "n": "2",
        "stream": "true",
        "guidance_scale": "2.5",
        "size": "auto",
        "regions": "[[0, 0, 1, 0.5]]",
    }


@pytest.mark.parametrize("image", [URL, [URL], {"image_url": URL}, [{"image_url": URL}]])
def test_a_picture_is_found_as_a_url_or_an_object_alone_or_in_a_list(image: Any) -> None:
    assert json_form(json.dumps({"image": image}).encode()).files == {"image": [PICTURE]}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"[]", None),
        (b"\xff", None),
        (b"[" * 100_000, None),
        (b'{"n": ' + b"9" * 5000 + b"}", None),
        (json.dumps({"prompt": 5}).encode(), "prompt"),
        (json.dumps({"negative_prompt": ["x"]}).encode(), "negative_prompt"),
        *(
            (json.dumps({"images": [image]}).encode(), "image")
            for image in (
                {"image_url": "https://example.com/x.png"},
                {"image_url": "file:///etc/passwd"},
                {"image_url": "data:image/png,plain"},
                {"image_url": "data:image/png;base64,@@@"},
                {"file_id": "file-1"},
                7,
                {"image_url": {"url": URL}},
            )
        ),
        (json.dumps({"images": [{"image_url": URL}], "mask": {"file_id": "x"}}).encode(), "mask"),
    ],
)
def test_a_broken_body_is_refused_and_nothing_is_fetched(body: bytes, param: str | None) -> None:
    with pytest.raises(BadRequest) as caught:
        json_form(body)
    assert caught.value.param == param and caught.value.code and len(str(caught.value)) < 250


def test_hugging_faces_body_is_a_picture_or_parameters_around_it() -> None:
    assert hugging_face_form("image/png", PICTURE).files == {"image": [PICTURE]}
    parameters = {"prompt": "red", "num_inference_steps": 4, "target_size": {"width": 12, "height": 8}, "seed": 3}
    for inputs in (BASE64, URL):
        form = hugging_face_form("application/json", json.dumps({"inputs": inputs, "parameters": parameters}).encode())
        assert form.files == {"image": [PICTURE]}
        assert form.texts == {"prompt": "red", "num_inference_steps": "4", "seed": "3", "size": "12x8"}


@pytest.mark.parametrize("body", [{}, {"inputs": 5}, {"inputs": "@"}, {"inputs": BASE64, "parameters": [1]}])
def test_a_broken_body_of_hugging_face_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(BadRequest) as caught:
        hugging_face_form("application/json", json.dumps(body).encode())
    assert caught.value.param == "inputs"


def test_a_body_that_would_cost_gigabytes_is_refused() -> None:
    for body in (b'{"a": [' + b"{}," * 100_000 + b"{}]}", json.dumps({"a": "x" * 2_000_000}).encode()):
        with pytest.raises(BadRequest) as caught:
            json_form(body)
        assert caught.value.code == "invalid_json"
