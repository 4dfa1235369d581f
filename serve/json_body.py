"""Requests to edit in JSON: OpenAI's and Hugging Face's, as the forms that they stand for. Imports no torch."""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Any

from fireedit.serve.fields import Form
from fireedit.serve.schema import BadRequest

LONGEST_HEAD = 200
"""Characters of a data URL before its data."""
MAX_MARKS, MAX_TEXT = 100_000, 1_000_000
"""Commas and brackets of a body, of which base64 has none, and characters of all texts: more costs gigabytes."""
DATA_URL = re.compile(r"data:[-+./\w]*(?:;[-+./=\w]+)*;base64,", re.ASCII)
TEXTS = ("prompt", "negative_prompt")
"""Fields that are texts in JSON too; others may be written as numbers, true and false."""


def json_form(body: bytes) -> Form:
    """Read a JSON body of OpenAI's fields, its pictures as `{"image_url": "data:..."}`.

    Raises:
        BadRequest: it is no JSON object, a text is none, or a picture is no data URL.
    """
    fields = _object(body)
    pictures = fields.pop("images", None) or fields.pop("image", None) or []
    mask = fields.pop("mask", None)
    files = {"image": [data_url("image", each) for each in (pictures if isinstance(pictures, list) else [pictures])]}
    if mask:
        files["mask"] = [data_url("mask", mask)]
    return Form(_texts(fields), files)


def hugging_face_form(content_type: str, body: bytes) -> Form:
    """Read a body of Hugging Face's `image_to_image`: a bare picture, or JSON of `inputs` and `parameters`.

    Raises:
        BadRequest: JSON that is no object, or a picture that is no base64.
    """
    if not content_type.lower().startswith("application/json"):
        return Form({}, {"image": [body]})
    fields = _object(body)
    parameters, inputs = fields.get("parameters") or {}, fields.get("inputs")
    if not isinstance(parameters, dict) or not isinstance(inputs, str):
        raise BadRequest("inputs: write the picture in base64, and parameters as an object", "inputs", "invalid_json")
    size = parameters.pop("target_size", None)
    if isinstance(size, dict):
        parameters["size"] = f"{size.get('width')}x{size.get('height')}"
    picture = data_url("inputs", inputs) if inputs.startswith("data:") else _decoded("inputs", inputs)
    return Form(_texts(parameters), {"image": [picture]})


def data_url(name: str, value: Any) -> bytes:
    """Decode a picture in a data URL, bare or as the `image_url` of an object; nothing is fetched.

    Raises:
        BadRequest: it is none.
    """
    url = value.get("image_url") if isinstance(value, dict) else value
    if not isinstance(url, str) or not (head := DATA_URL.match(url[:LONGEST_HEAD])):
        message = f"{name}: found {str(url)[:40]!r}; send the picture itself as image_url 'data:image/png;base64,...'"
        raise BadRequest(message, name, "invalid_image_url")
    return _decoded(name, url[head.end() :])


def _decoded(name: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest(
            f"{name}: found characters that are no base64; send it whole", name, "invalid_base64"
        ) from None


def _object(body: bytes) -> dict[str, Any]:
    if sum(map(body.count, (b",", b"[", b"{"))) > MAX_MARKS:
        raise BadRequest("the body has too many values; send the fields of one edit", code="invalid_json")
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"[:80]
        raise BadRequest(f"the body is no JSON ({reason}); send one object", code="invalid_json") from None
    if not isinstance(fields, dict):
        raise BadRequest(f"the body is a JSON {type(fields).__name__}; send one object", code="invalid_json")
    return fields


def _texts(fields: Mapping[str, Any]) -> dict[str, str]:
    """Write values as a form does; null leaves a field out."""
    for name in TEXTS:
        if not isinstance(fields.get(name), str | None):
            raise BadRequest(f"{name}: found {str(fields[name])[:40]!r}; write a text", name, "invalid_type")
    written = {name: value if isinstance(value, str) else json.dumps(value) for name, value in fields.items()}
    if sum(map(len, written.values())) > MAX_TEXT:
        raise BadRequest(f"the texts have more than {MAX_TEXT:,} characters; write less", code="invalid_json")
    return {name: text for name, text in written.items() if fields[name] is not None}
