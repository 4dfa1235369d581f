"""Requests that a client may send, and the bodies of responses."""

import base64
import pickle

import numpy as np
import pytest

from fireedit.models.settings import PaintSettings, setting_fields
from fireedit.platform import images
from fireedit.serve.schema import BadRequest, Edited, EditRequest, Form, LimitsConfig, edit_body

IMAGE = images.encode_png(np.zeros((8, 12, 3), np.uint8))
LIMITS = LimitsConfig(max_image_bytes=10_000, max_image_pixels=20_000, max_prompt_chars=100)
WRONG = {
    "prompt": ["", " \n", "x" * 101],
    "n": ["0", "11", "two", "1_0", "1.0", "9" * 5000],
    "seed": ["-1"],
    "num_inference_steps": ["1001", "1_0", "2.5"],
    "guidance_scale": ["nan", "inf", "101"],
    "image_guidance_scale": ["-1"],
    "keep_below": ["2"],
    "negative_prompt": ["x" * 101],
    "output_format": ["gif"],
    "output_compression": ["101"],
    "regions": ["yes"],
    "stream": ["true"],
    "response_format": ["url"],
    "size": ["512x512"],
    "background": ["transparent"],
    "mask": ["x"],
}
"""Values that are refused, by field."""


def parse(files: dict[str, list[bytes]] | None = None, **texts: str) -> EditRequest:
    return EditRequest.from_form(Form({"prompt": "make it red", **texts}, files or {"image": [IMAGE]}), LIMITS)


def test_settings_left_out_stay_as_saved_with_the_weights() -> None:
    request = parse()
    assert request.settings == {}
    assert (request.n, request.output_format, request.regions) == (1, "png", False)
    assert request.picture.canvas.shape == (512, 512, 3) and request.picture.size == (12, 8)
    assert request.picture.file == IMAGE and not request.reproducible


def test_every_declared_setting_is_a_field() -> None:
    texts = {setting.name: "blur" if setting.type is str else "1" for setting in setting_fields()}
    values = parse(**texts).settings
    assert PaintSettings(**values) == PaintSettings().but(**values)
    assert {name: type(value) for name, value in values.items()} == {s.name: s.type for s in setting_fields()}


def test_scalars_are_parsed() -> None:
    request = parse(n="3", seed="7", num_inference_steps="10", guidance_scale="2.5", regions="true")
    assert request.seeds == (7, 8, 9)
    assert request.settings == {"num_inference_steps": 10, "guidance_scale": 2.5}
    assert request.regions


def test_each_request_without_a_seed_gets_another() -> None:
    assert parse().seed != parse().seed


def test_seeds_wrap_within_range() -> None:
    assert parse(n="3", seed=str(2**63 - 2)).seeds == (2**63 - 2, 2**63 - 1, 0)


def test_other_fields_of_openai_are_ignored() -> None:
    harmless = dict(model="gpt-image-2", size="auto", quality="high", background="opaque", user="u", moderation="low")
    parse(**harmless, stream="false", response_format="b64_json", input_fidelity="high", new_field_of_next_month="x")
    parse(files={"image[]": [IMAGE]})


@pytest.mark.parametrize(("param", "value"), [(param, value) for param, values in WRONG.items() for value in values])
def test_wrong_values_are_refused_by_name(param: str, value: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse(**{param: value})
    assert caught.value.param == param and caught.value.code and len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "files",
    [
        [],
        [IMAGE, IMAGE],
        [b""],
        [b"GIF89a"],
        [IMAGE[:40]],
        [IMAGE + bytes(10_000)],
        [images.encode_png(np.zeros((201, 100, 3), np.uint8))],
        [images.encode_png(np.zeros((1, 100, 3), np.uint8))],
    ],
    ids=["none", "two", "empty", "gif", "cut", "too many bytes", "too many pixels", "too long"],
)
def test_wrong_images_are_refused(files: list[bytes]) -> None:
    with pytest.raises(BadRequest) as caught:
        parse(files={"image[]": files})
    assert caught.value.param == "image"


def test_bad_request_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(BadRequest("n: no", "n", "c")))
    assert (str(error), error.param, error.code) == ("n: no", "n", "c")


def test_response_has_the_shape_of_openais() -> None:
    image = np.full((4, 6, 3), 9, np.uint8)
    edited = Edited([image], np.array([[0, 0, 0.5, 1]], np.float32), np.array([0.25], np.float32))
    body = edit_body(parse(seed="5"), edited)
    (data,) = body["data"]
    assert np.array_equal(images.decode(base64.b64decode(data["b64_json"])), image) and data["revised_prompt"] is None
    assert (body["size"], body["output_format"], body["background"]) == ("6x4", "png", "opaque")
    assert body["seed"] == 5 and body["created"] > 1e9 and body["usage"]["total_tokens"] == 0
    assert "regions" not in body
    body = edit_body(parse(regions="true", output_format="jpeg"), edited)
    assert body["regions"] == [{"box": [0, 0, 0.5, 1], "score": 0.25}]
    assert base64.b64decode(body["data"][0]["b64_json"]).startswith(b"\xff\xd8")
