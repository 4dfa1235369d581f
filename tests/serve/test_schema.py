"""Requests that a client may send, and the bodies of responses."""

import base64
import math
import pickle

import numpy as np
import pytest

from fireedit.models.processor import squash
from fireedit.models.settings import PaintSettings, setting_fields
from fireedit.platform import images
from fireedit.serve.schema import (
    BadRequest,
    DeadlineExceeded,
    Edited,
    EditJob,
    EditRequest,
    Form,
    LimitsConfig,
    edit_body,
)

IMAGE = images.encode_png(np.zeros((8, 12, 3), np.uint8))
LIMITS = LimitsConfig(max_image_bytes=10_000, max_image_pixels=20_000, max_prompt_chars=100)
WRONG = {
    "prompt": ["", " \n", "x" * 101, "make it\0red", "\x1b[2J", "\x7f", "\x9b"],
    "n": ["0", "11", "two", "1_0", "1.0", "9" * 5000],
    "seed": ["-1"],
    "num_inference_steps": ["1001", "1_0", "2.5"],
    "guidance_scale": ["nan", "inf", "101", "1_0", "\u0663", "1e999"],
    "image_guidance_scale": ["-1"],
    "keep_below": ["2"],
    "negative_prompt": ["x" * 101, "\b"],
    "output_format": ["gif"],
    "output_compression": ["101"],
    "regions": ["yes", "2"],
    "reproducible": ["maybe"],
    "response_format": ["url"],
    "size": ["512x512"],
    "background": ["transparent"],
    "mask": ["x"],
}
"""Values that are refused, by field."""


def parse(files: dict[str, list[bytes]] | None = None, **texts: str) -> EditRequest:
    form = Form({"prompt": "make it red", **texts}, files or {"image": [IMAGE]})
    return EditRequest.from_form(form, LIMITS, side=512)


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


@pytest.mark.parametrize("text", ["true", "True", "TRUE", "1"])
def test_a_flag_is_true_in_any_case(text: str) -> None:
    request = parse(regions=text, reproducible=text)
    assert request.regions and request.reproducible


@pytest.mark.parametrize("text", ["false", "False", "FALSE", "0", ""])
def test_a_flag_is_false_in_any_case(text: str) -> None:
    request = parse(regions=text, reproducible=text, stream=text)
    assert not request.regions and not request.reproducible


def test_empty_fields_are_left_out() -> None:
    """Clients in Go send every field of their struct, and HTML forms every input."""
    names = [*WRONG, *(setting.name for setting in setting_fields())]
    empty = dict.fromkeys(names, "") | {"prompt": "make it red"}
    request = parse({"image": [b"", IMAGE], "image[]": [b""], "mask": [b""]}, **empty)
    assert (request.n, request.settings, request.output_compression) == (1, {}, 95)
    assert request.seed != parse(**empty).seed


def test_texts_keep_line_ends_tabs_and_other_scripts() -> None:
    prompt = "make it red,\r\n\tplease: \u8d64\U0001f469\u200d\U0001f680"
    request = parse(prompt=prompt, negative_prompt="a\nb")
    assert request.prompt == prompt and request.settings == {"negative_prompt": "a\nb"}


def test_the_canvas_is_as_the_models_squash_the_picture() -> None:
    image = np.random.default_rng(0).integers(0, 256, (97, 130, 3), np.uint8)
    for file in (images.encode_png(image), images.encode_jpeg(image)):
        limits = LimitsConfig(max_image_bytes=len(file))
        picture = EditRequest.from_form(Form({"prompt": "x"}, {"image": [file]}), limits, side=64).picture
        assert np.array_equal(picture.canvas, squash(images.decode(file), 64))
        assert picture.size == (130, 97) and picture.file is file


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


def test_jobs_and_errors_survive_pickling() -> None:
    job = EditJob(settings={"num_inference_steps": 3}, seeds=(1, 2), size=(12, 8), caller="a", request_id="r")
    assert pickle.loads(pickle.dumps(job)) == job and job.deadline == math.inf and not job.reproducible
    assert str(pickle.loads(pickle.dumps(DeadlineExceeded("late")))) == "late"
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
