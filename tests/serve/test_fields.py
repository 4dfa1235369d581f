"""Fields of the requests that a client may send."""

import json

import numpy as np
import pytest

from fireedit.models.processor import squash
from fireedit.models.settings import PaintSettings, setting_fields
from fireedit.platform import images
from fireedit.serve.fields import Form, editable, read_request
from fireedit.serve.schema import BadRequest, EditRequest, LimitsConfig

IMAGE = images.encode_png(np.zeros((8, 12, 3), np.uint8))
LIMITS = LimitsConfig(max_image_bytes=10_000, max_image_pixels=20_000, max_prompt_chars=100)
WRONG = {
    "prompt": ["", " \n", "x" * 101, "make it\0red", "\ud800 red", "\x1b[2J", "\x7f", "\x9b"],
    "n": ["0", "11", "two", "1_0", "1.0", "9" * 5000],
    "seed": ["-1"],
    "num_inference_steps": ["1001", "1_0", "2.5"],
    "guidance_scale": ["nan", "inf", "101", "1_0", "\u0663", "1e999"],
    "image_guidance_scale": ["-1"],
    "keep_below": ["2"],
    "negative_prompt": ["x" * 101, "\b"],
    "output_format": ["gif"],
    "output_compression": ["101"],
    "regions": ["yes", "2", "[]", "[[0, 0, 1]]", "[[0, 0, 2, 1]]", "[[0.5, 0, 0.5, 1]]", "[[0, 0, NaN, 1]]", "[" * 5000]
    + [json.dumps([[0, 0, 1, 1]] * 4), "[[1e400, 0, 1, 1]]", '[["a", 0, 1, 1]]'],
    "return_regions": ["yes", "2"],
    "partial_images": ["4", "-1"],
    "reproducible": ["maybe"],
    "stream": ["maybe"],
    "quality": ["best"],
    "input_fidelity": ["none"],
    "markup": ["x"],
    "svg": ["true"],
    "frame_count": ["2"],
    "response_format": ["url"],
    "size": ["512", "512x", "0x512", "512x512x512", "99999x99999", "12000x1000", "6000x6000", "-1x5"],
    "background": ["transparent"],
    "mask": ["x"],
}
"""Values that are refused, by field."""


def parse(files: dict[str, list[bytes]] | None = None, **texts: str) -> EditRequest:
    form = Form({"prompt": "make it red", **texts}, files or {"image": [IMAGE]})
    return read_request(form, LIMITS, side=512, max_regions=3)


def test_settings_left_out_stay_as_saved_with_the_weights() -> None:
    request = parse()
    assert request.settings == {}
    assert (request.n, request.output_format, request.regions, request.size) == (1, "png", None, (12, 8))
    assert request.source.canvas.shape == (512, 512, 3) and request.source.size == (12, 8)
    assert request.source.file == IMAGE and not request.reproducible


def test_every_declared_setting_is_a_field() -> None:
    texts = {setting.name: "blur" if setting.type is str else "1" for setting in setting_fields()}
    values = parse(**texts).settings
    assert PaintSettings(**values) == PaintSettings().but(**values)
    assert {name: type(value) for name, value in values.items()} == {s.name: s.type for s in setting_fields()}


def test_scalars_are_parsed() -> None:
    request = parse(n="3", seed="7", num_inference_steps="10", guidance_scale="2.5", return_regions="true")
    assert request.seeds == (7, 8, 9)
    assert request.settings == {"num_inference_steps": 10, "guidance_scale": 2.5}
    assert request.return_regions


@pytest.mark.parametrize("text", ["true", "True", "TRUE", "1"])
def test_a_flag_is_true_in_any_case(text: str) -> None:
    request = parse(return_regions=text, reproducible=text, stream=text)
    assert request.return_regions and request.reproducible and request.stream


@pytest.mark.parametrize("text", ["false", "False", "FALSE", "0", ""])
def test_a_flag_is_false_in_any_case(text: str) -> None:
    request = parse(return_regions=text, reproducible=text, stream=text)
    assert not (request.return_regions or request.reproducible or request.stream)


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
        source = read_request(Form({"prompt": "x"}, {"image": [file]}), limits, side=64, max_regions=3).source
        assert np.array_equal(source.canvas, squash(images.decode(file), 64))
        assert source.size == (130, 97) and source.file is file


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


@pytest.mark.parametrize(
    ("size", "found"), [("auto", (12, 8)), ("", (12, 8)), ("canvas", (12, 8)), ("512x512", (512, 512)), ("3x2", (3, 2))]
)
def test_sizes_are_the_sources_the_canvas_or_any_other(size: str, found: tuple[int, int]) -> None:
    assert parse(size=size).size == found


def test_results_of_one_request_are_bounded_together() -> None:
    parse(size="2500x2500", n="4")
    with pytest.raises(BadRequest, match="5 results of 2500 x 2500 have 31,250,000 pixels; ask for at most 25,000,000"):
        parse(size="2500x2500", n="5")


def test_regions_are_boxes_of_the_image() -> None:
    assert parse(regions="[[0, 0.25, 1, 1], [0, 0, 0.5, 0.5]]").regions == ((0, 0.25, 1, 1), (0, 0, 0.5, 0.5))


def masked(alpha: np.ndarray) -> bytes:
    return images.encode_png(np.dstack([np.zeros((*alpha.shape, 3), np.uint8), alpha.astype(np.uint8)]))


@pytest.mark.parametrize("name", ["mask", "mask[]"])
def test_a_mask_lets_transparent_pixels_change(name: str) -> None:
    alpha = np.full((8, 12), 255)
    alpha[2:5, 3:9] = 0
    request = parse({"image": [IMAGE], name: [masked(alpha)]})
    assert request.mask is not None
    np.testing.assert_array_equal(editable(request.mask), 255 - alpha)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (masked(np.zeros((8, 13))), "found 13 x 8; send one of the image's size, 12 x 8"),
        (IMAGE, "found no transparency"),
        (masked(np.full((8, 12), 255)), "found no transparent pixel"),
        (b"GIF89a", "send a PNG"),
        (masked(np.zeros((8, 12)))[:50], "damaged PNG"),
    ],
)
def test_a_wrong_mask_is_refused_with_what_was_found(mask: bytes, message: str) -> None:
    with pytest.raises(BadRequest, match=message) as caught:
        parse({"image": [IMAGE], "mask": [mask]})
    assert caught.value.param == "mask"


def test_a_markup_is_refused_not_ignored() -> None:
    with pytest.raises(BadRequest, match="markup: not supported"):
        parse({"image": [IMAGE], "markup": [IMAGE]})


def test_transparency_is_seen_over_gray_or_white_as_the_answer_needs() -> None:
    clear = images.encode_png(np.zeros((4, 4, 4), np.uint8))
    for fields, ground in (({}, 128), ({"background": "opaque"}, 255), ({"output_format": "jpeg"}, 255)):
        assert (parse({"image": [clear]}, **fields).source.canvas == ground).all()
