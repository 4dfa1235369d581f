"""The description of the API says what the fields are."""

import json

import pytest

from fireedit.models.settings import setting_fields
from fireedit.platform import images
from fireedit.serve.fields import Form, read_request
from fireedit.serve.openapi import document, page
from fireedit.serve.prompts import served_model
from fireedit.serve.schema import BadRequest, LimitsConfig

SERVED, LIMITS = served_model("nano"), LimitsConfig(max_steps=50)
DOCUMENT = document("nano", SERVED, LIMITS)
IMAGE = images.encode_png(images.np.zeros((8, 8, 3), "uint8"))


def fields() -> dict[str, dict]:
    body = DOCUMENT["paths"]["/v1/images/edits"]["post"]["requestBody"]["content"]["multipart/form-data"]
    return {
        name: field for name, field in body["schema"]["properties"].items() if name not in ("image", "mask", "model")
    }


def parse(name: str, value: object) -> None:
    text = value if isinstance(value, str) else json.dumps(value)
    read_request(Form({"prompt": "red", name: text}, {"image": [IMAGE]}), LIMITS, 64, SERVED.max_regions)


def test_every_setting_is_described_with_the_default_of_the_weights() -> None:
    for setting in setting_fields():
        assert fields()[setting.name]["default"] == getattr(SERVED.settings, setting.name)
    assert fields()["num_inference_steps"]["maximum"] == 50


@pytest.mark.parametrize("name", fields())
def test_defaults_and_bounds_are_those_that_are_read(name: str) -> None:
    field = fields()[name]
    for value in (field.get("default"), field.get("minimum"), field.get("maximum"), *field.get("enum", ())):
        if value is not None and value != "":
            parse(name, value)
    for value in (field.get("minimum", 0) - 1, field.get("maximum", 0) + 1):
        if "maximum" in field:
            with pytest.raises(BadRequest):
                parse(name, value)


def test_the_document_is_json_and_its_page_lists_every_path() -> None:
    assert json.loads(json.dumps(DOCUMENT)) == DOCUMENT
    text = page(DOCUMENT)
    assert all(path in text for path in DOCUMENT["paths"]) and "http://" not in text and "https://" not in text
