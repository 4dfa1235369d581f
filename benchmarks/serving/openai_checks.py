"""Checks of a running service with OpenAI's Python client, whatever its version; prints one JSON line of failures.

Runs in a process of its own: `python openai_checks.py URL KEY`, with the folder of the client on PYTHONPATH.
"""

import base64
import io
import json
import sys
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import openai
from PIL import Image

PROMPT, EXTRA = "Make the background a beach.", {"seed": 3, "num_inference_steps": 4}
WIDTH, HEIGHT = 96, 72


def picture(alpha: np.ndarray | None = None) -> bytes:
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    pixels = np.stack([2 * x, 3 * y, np.full_like(x, 90)], axis=-1).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels if alpha is None else np.dstack([pixels, alpha])).save(file, "PNG")
    return file.getvalue()


SOURCE = picture()


def opened(item: Any) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(item.b64_json)))


def pixels(item: Any) -> np.ndarray:
    return np.asarray(opened(item))


def edit(client: openai.OpenAI, extra: dict[str, Any] | None = None, **fields: Any) -> Any:
    arguments: dict[str, Any] = {"image": SOURCE, "prompt": PROMPT, "extra_body": EXTRA | (extra or {})}
    return client.images.edit(**arguments | fields)


def edits_come_back_in_the_sources_size(client: openai.OpenAI) -> None:
    answer = edit(client)
    assert opened(answer.data[0]).size == (WIDTH, HEIGHT) and answer.size == f"{WIDTH}x{HEIGHT}"
    assert answer.usage.total_tokens > 0 and answer._request_id
    again = edit(client, image=[("x.png", SOURCE, "image/png")], model="gpt-image-1", quality="high")
    assert again.data[0].b64_json and np.array_equal(pixels(again.data[0]), pixels(answer.data[0]))


def a_mask_keeps_what_it_covers(client: openai.OpenAI) -> None:
    alpha = np.full((HEIGHT, WIDTH), 255, np.uint8)
    alpha[:, :40] = 0
    answer = edit(client, {"keep_below": 0}, mask=picture(alpha))
    result, source = pixels(answer.data[0]), np.asarray(Image.open(io.BytesIO(SOURCE)))
    assert (result[:, 40:] == source[:, 40:]).all() and (result[:, :40] != source[:, :40]).any()


def a_stream_shows_two_partial_pictures_and_the_result(client: openai.OpenAI) -> None:
    events = list(edit(client, stream=True, partial_images=2))
    kinds = [event.type for event in events]
    assert kinds == ["image_edit.partial_image"] * 2 + ["image_edit.completed"], kinds
    assert [event.partial_image_index for event in events[:2]] == [0, 1]
    assert all(opened(event).width for event in events) and events[2].usage.total_tokens > 0
    whole = edit(client)
    assert np.array_equal(pixels(events[2]), pixels(whole.data[0])) and opened(events[2]).size == (WIDTH, HEIGHT)


def two_pictures_of_two_seeds_come_back(client: openai.OpenAI) -> None:
    answer = edit(client, n=2)
    assert len(answer.data) == 2 and not np.array_equal(pixels(answer.data[0]), pixels(answer.data[1]))


def formats_and_sizes_are_those_asked_for(client: openai.OpenAI) -> None:
    webp = edit(client, output_format="webp", output_compression=80, size="512x512")
    image = opened(webp.data[0])
    assert (image.format, image.size, webp.output_format) == ("WEBP", (512, 512), "webp")


def bad_values_name_their_field(client: openai.OpenAI) -> None:
    cases: dict[str, dict[str, Any]] = {
        "n": {"n": 11},
        "size": {"size": "huge"},
        "output_format": {"output_format": "gif"},
        "partial_images": {"partial_images": 9},
        "mask": {"mask": SOURCE},
        "image": {"image": [SOURCE, SOURCE]},
        "prompt": {"prompt": " "},
        "seed": {"extra_body": {"seed": -1}},
    }
    for param, fields in cases.items():
        try:
            edit(client, **fields)
        except openai.BadRequestError as error:
            assert error.param == param and error.code and param in error.message, (param, error.body)
        else:
            raise AssertionError(f"{param}: taken")
    try:
        edit(client, stream=True, n=11)
    except openai.BadRequestError as error:
        assert error.param == "n"
    else:
        raise AssertionError("a wrong stream began")


def a_wrong_key_is_refused(client: openai.OpenAI) -> None:
    stranger = openai.OpenAI(base_url=client.base_url, api_key="sk-wrong", max_retries=0)
    for call in (lambda: edit(stranger), stranger.models.list):
        try:
            call()
        except openai.AuthenticationError as error:
            assert error.code == "invalid_api_key"
        else:
            raise AssertionError("a wrong key was taken")


def a_client_may_leave_a_stream(client: openai.OpenAI) -> None:
    stream = edit(client, {"num_inference_steps": 1000}, stream=True, partial_images=3)
    assert next(iter(stream)).type == "image_edit.partial_image"
    stream.close()
    assert edit(client).data[0].b64_json


def models_are_listed_and_generations_refused(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert client.models.retrieve(model.id).id == model.id
    try:
        client.images.generate(prompt="a cat")
    except openai.NotFoundError as error:
        assert error.code and "edits" in error.message
    else:
        raise AssertionError("a generation was answered")


CHECKS: list[Callable[[openai.OpenAI], None]] = [
    edits_come_back_in_the_sources_size,
    a_mask_keeps_what_it_covers,
    a_stream_shows_two_partial_pictures_and_the_result,
    two_pictures_of_two_seeds_come_back,
    formats_and_sizes_are_those_asked_for,
    bad_values_name_their_field,
    a_wrong_key_is_refused,
    a_client_may_leave_a_stream,
    models_are_listed_and_generations_refused,
]


def main() -> None:
    client = openai.OpenAI(base_url=f"{sys.argv[1]}/v1", api_key=sys.argv[2], max_retries=0, timeout=120)
    failures = {}
    for check in CHECKS:
        try:
            check(client)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1].lineno
            failures[check.__name__] = f"{type(error).__name__} at line {where}: {error}"[:300]
    print(json.dumps({"version": openai.__version__, "checks": len(CHECKS), "failures": failures}))


if __name__ == "__main__":
    main()
