"""What a client may ask for, and how answers look."""

import base64
import pickle
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest

from fireedit.models.settings import PaintSettings
from fireedit.platform import images
from fireedit.serve.schema import BadRequest, EditAnswer, Edited, EditRequest, Form, LimitsConfig, Settings

IMAGE = images.encode_png(np.zeros((8, 12, 3), np.uint8))
LIMITS = LimitsConfig(max_image_bytes=10_000, max_image_pixels=20_000, max_prompt_chars=100)


def ask(files: dict[str, list[bytes]] | None = None, **texts: str) -> EditRequest:
    return EditRequest.from_form(Form({"prompt": "make it red", **texts}, files or {"image": [IMAGE]}), LIMITS)


def test_how_to_paint_is_left_to_the_weights() -> None:
    asked = ask()
    assert asked.settings == Settings() and PaintSettings().but(**asdict(Settings())) == PaintSettings()
    assert set(asdict(Settings())) == set(asdict(PaintSettings()))
    assert (asked.n, asked.output_format, asked.regions) == (1, "png", False)
    assert asked.image.shape == (8, 12, 3)


def test_scalars_are_texts() -> None:
    asked = ask(n="3", seed="7", num_inference_steps="10", guidance_scale="2.5", negative_prompt="blur", regions="true")
    assert asked.seeds == (7, 8, 9)
    assert asked.settings == Settings(num_inference_steps=10, guidance_scale=2.5, negative_prompt="blur")
    assert asked.regions


def test_each_edit_without_a_seed_gets_another() -> None:
    assert ask().seed != ask().seed


def test_what_clients_of_openai_send_does_no_harm() -> None:
    harmless = dict(model="gpt-image-2", size="auto", quality="high", background="opaque", user="u", moderation="low")
    ask(**harmless, stream="false", response_format="b64_json", input_fidelity="high", new_field_of_next_month="x")
    ask(files={"image[]": [IMAGE]})


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("prompt", ""),
        ("prompt", " \n"),
        ("prompt", "x" * 101),
        ("n", "0"),
        ("n", "11"),
        ("n", "two"),
        ("n", "1_0"),
        ("n", "1.0"),
        ("n", "9" * 5000),
        ("seed", "-1"),
        ("num_inference_steps", "1001"),
        ("guidance_scale", "nan"),
        ("guidance_scale", "inf"),
        ("image_guidance_scale", "-1"),
        ("keep_below", "2"),
        ("negative_prompt", "x" * 101),
        ("output_format", "gif"),
        ("output_compression", "101"),
        ("regions", "yes"),
        ("stream", "true"),
        ("response_format", "url"),
        ("size", "512x512"),
        ("background", "transparent"),
        ("mask", "x"),
    ],
)
def test_wrong_values_are_refused_by_name(param: str, value: str) -> None:
    with pytest.raises(BadRequest, match=f"^{param}: ") as caught:
        ask(**{param: value})
    assert caught.value.param == param and caught.value.code and len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "pictures",
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
def test_wrong_pictures_are_refused(pictures: list[bytes]) -> None:
    with pytest.raises(BadRequest, match="^image: ") as caught:
        ask(files={"image[]": pictures})
    assert caught.value.param == "image"


def test_a_refusal_survives_the_way_through_ray() -> None:
    error = pickle.loads(pickle.dumps(BadRequest("n: no", "n", "c")))
    assert (str(error), error.param, error.code) == ("n: no", "n", "c")


def test_the_answer_is_openais() -> None:
    picture = np.full((4, 6, 3), 9, np.uint8)
    edited = Edited([picture], np.array([[0, 0, 0.5, 1]], np.float32), np.array([0.25], np.float32))
    body = EditAnswer.of(ask(seed="5"), edited).body()
    (data,) = body["data"]
    assert np.array_equal(images.decode(base64.b64decode(data["b64_json"])), picture) and data["revised_prompt"] is None
    assert (body["size"], body["output_format"], body["background"]) == ("6x4", "png", "opaque")
    assert body["seed"] == 5 and body["created"] > 1e9 and body["usage"]["total_tokens"] == 0
    assert "regions" not in body
    body = EditAnswer.of(ask(regions="true", output_format="jpeg"), edited).body()
    assert body["regions"] == [{"box": [0, 0, 0.5, 1], "score": 0.25}]
    assert base64.b64decode(body["data"][0]["b64_json"]).startswith(b"\xff\xd8")


def test_it_needs_no_torch() -> None:
    code = "import sys, fireedit.serve.schema; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
