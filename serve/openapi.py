"""Description of the HTTP API: an OpenAPI document from the declared fields, and a page of it. Imports no torch."""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from fireedit.models.settings import MAX_SEED, setting_fields
from fireedit.serve.fields import BACKGROUNDS, FORMATS, QUALITIES
from fireedit.serve.prompts import ServedModel
from fireedit.serve.schema import LimitsConfig

Schema = dict[str, Any]
Rows = Iterator[tuple[str, str, str]]

REFUSALS = {
    400: "the request is wrong; `param` names the field, the message what was found and what to send",
    401: "no API key, or an unknown one",
    408: "the body came too slowly, or the request's timeout passed",
    429: "too many requests wait, or the key is over its rate; see `Retry-After`",
    431: "too many bytes of headers",
    500: "the server failed; not to be repeated",
    503: "a part of the service is being restarted; see `Retry-After`",
}
TYPES = {int: "integer", float: "number", str: "string"}


def document(model_name: str, served: ServedModel, limits: LimitsConfig) -> Schema:
    """Build the OpenAPI document of a service."""
    fields = _fields(model_name, served, limits)
    components = {"schemas": _schemas(), "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "FireEdit", "version": "1", "description": "Edit pictures by instructions."},
        "security": [{"key": []}, {}],
        "paths": _paths(model_name, fields),
        "components": components,
    }


def _fields(model_name: str, served: ServedModel, limits: LimitsConfig) -> dict[str, Schema]:
    """Describe the fields of an edit but for the pictures."""
    box = {"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 1}, "minItems": 4, "maxItems": 4}
    size = f"`auto`, the source's; `canvas`, no more than the {served.side} pixels that are painted; or WIDTHxHEIGHT"
    fields: dict[str, Schema] = {
        "prompt": {
            "type": "string",
            "minLength": 1,
            "maxLength": limits.max_prompt_chars,
            "description": "What to change.",
        },
        "model": {"type": "string", "description": f"Any; this server has `{model_name}` alone."},
        "n": _integer("Pictures, each of the next seed.", 1, limits.max_images, 1),
        "seed": _integer("Seed of the first picture; another at each request by default.", 0, MAX_SEED),
        "size": {"type": "string", "pattern": r"^(auto|canvas|[1-9]\d{0,4}x[1-9]\d{0,4})$", "default": "auto"}
        | {"description": f"Size of the results: {size}."},
        "regions": {"type": "array", "items": box, "minItems": 1, "maxItems": max(1, served.max_regions)}
        | {"description": "Boxes [left, top, right, bottom] that the model looks at, in place of the detector's."},
        "return_regions": _flag("Add the regions that the model looked at, and their scores."),
        "output_format": _choice("Format of the pictures.", FORMATS),
        "output_compression": _integer("Quality of JPEG and WebP.", 0, 100, 95),
        "background": _choice("`opaque` lays transparency over white; else it is kept.", BACKGROUNDS),
        "response_format": _choice("The pictures come in base64.", ("b64_json",)),
        "quality": _choice("Taken, and without effect.", QUALITIES),
        "input_fidelity": _choice("Taken, and without effect.", ("high", "low")),
        "stream": _flag("Answer in server-sent events."),
        "partial_images": _integer("Pictures to show before the last step, of an answer in events.", 0, 3, 0),
        "reproducible": _flag("Paint alone, so that the same device gives the same bytes in any precision."),
    }
    for setting in map(limits.narrow, setting_fields()):
        default = getattr(served.settings, setting.name)
        schema: Schema = {"type": TYPES[setting.type], "default": default, "description": f"{setting.help}."}
        bounds: Schema = {"maxLength": limits.max_prompt_chars}
        if setting.type is not str:
            bounds = {"minimum": setting.minimum}
        if setting.type is not str and setting.maximum < float("inf"):
            bounds["maximum"] = setting.maximum
        fields[setting.name] = schema | bounds
    return fields


def _integer(description: str, minimum: int, maximum: int, default: int | None = None) -> Schema:
    schema = {"type": "integer", "minimum": minimum, "maximum": maximum, "description": description}
    return schema if default is None else schema | {"default": default}


def _flag(description: str) -> Schema:
    return {"type": "boolean", "default": False, "description": description}


def _choice(description: str, values: tuple[str, ...]) -> Schema:
    return {"type": "string", "enum": list(values), "default": values[0], "description": description}


def _schemas() -> dict[str, Schema]:
    text, whole = {"type": "string"}, {"type": "integer"}
    error = {"message": text, "type": text, "param": {"type": ["string", "null"]}, "code": {"type": ["string", "null"]}}
    picture = {"b64_json": text, "revised_prompt": {"type": ["string", "null"]}, "seed": whole}
    described = {"output_format": text, "size": text, "quality": text, "background": text}
    details = _closed({"text_tokens": whole, "image_tokens": whole})
    counts = {name: whole for name in ("input_tokens", "output_tokens", "total_tokens")}
    region = _closed({"box": {"type": "array", "items": {"type": "number"}}, "score": {"type": "number"}})
    answer = {"created": whole, "data": {"type": "array", "items": _closed(picture)}, **described, "seed": whole}
    answer |= {"usage": _closed({**counts, "input_tokens_details": details})}
    status = {"id": text, "object": text, "status": {"type": "string", "enum": list(STATES)}, "created_at": whole}
    status |= {"expires_at": whole, "queue_position": {"type": ["integer", "null"]}, "step": whole, "steps": whole}
    model = {"id": text, "object": text, "created": whole, "owned_by": text}
    return {
        "Error": _closed({"error": _closed(error)}),
        "Answer": _closed(answer, regions={"type": "array", "items": region}),
        "Status": _closed(status, error={"type": ["object", "null"]}, result={"type": ["object", "null"]}),
        "Model": {"type": "object", "properties": model, "required": list(model)},
    }


STATES = ("queued", "running", "completed", "failed", "canceled")


def _closed(properties: Schema, **optional: Schema) -> Schema:
    """Describe an object of these properties and no others."""
    required = list(properties)
    return {
        "type": "object",
        "properties": properties | optional,
        "required": required,
        "additionalProperties": False,
    }


def _paths(model_name: str, fields: Mapping[str, Schema]) -> dict[str, Schema]:
    event = {"event": {"type": "string"}, "data": {"type": "string", "description": "JSON."}}
    events = {"text/event-stream": {"schema": {"type": "object", "properties": event}}}
    edit_id = _parameter("id", "Id of the edit.", "edit_0")
    model_id = _parameter("id", "Id of the model.", model_name)
    pictures = {f"image/{name}": {"schema": {"type": "string", "format": "binary"}} for name in FORMATS}
    listed = {"type": "object", "properties": {"object": {"type": "string"}, "data": {"type": "array"}}}
    return {
        "/v1/images/edits": {
            "post": _operation("Edit a picture.", _json("Answer") | events, _edit_bodies(fields)),
        },
        "/v1/edits": {"post": _operation("Queue an edit.", _json("Status"), _edit_bodies(fields), success=202)},
        "/v1/edits/{id}": {
            "parameters": [edit_id],
            "get": _operation("Ask for the state and the result of an edit.", _json("Status"), more=(404,)),
            "delete": _operation("Cancel an edit, or remove its result.", _json("Status"), more=(404,)),
        },
        "/v1/edits/{id}/events": {
            "parameters": [edit_id],
            "get": _operation("Watch an edit in server-sent events.", events, more=(404,)),
        },
        "/models/{id}": {
            "parameters": [model_id],
            "post": _operation(
                "Edit a picture as Hugging Face's image_to_image.", pictures, _bare_bodies(), more=(404,)
            ),
        },
        "/v1/models": {"get": _operation("List the one model.", {"application/json": {"schema": listed}})},
        "/v1/models/{id}": {
            "parameters": [model_id],
            "get": _operation("Describe the model, its settings and limits.", _json("Model"), more=(404,)),
        },
        "/v1/images/generations": {
            "post": {"summary": "Not offered: this model edits pictures.", "responses": {"404": _refusal("always")}}
        },
    }


def _operation(
    summary: str, content: Schema, body: Schema | None = None, success: int = 200, more: tuple[int, ...] = ()
) -> Schema:
    refusals = REFUSALS | dict.fromkeys(more, "there is none of this id")
    if body is None:
        refusals = {status: text for status, text in refusals.items() if status != 408}
    responses = {str(success): {"description": "done", "content": content}}
    responses |= {str(status): _refusal(text) for status, text in sorted(refusals.items())}
    operation: Schema = {"summary": summary, "responses": responses}
    return operation if body is None else operation | {"requestBody": {"required": True, "content": body}}


def _json(name: str) -> Schema:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}


def _refusal(text: str) -> Schema:
    return {"description": text, "content": _json("Error")}


def _parameter(name: str, description: str, example: str) -> Schema:
    schema = {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"}
    return {"name": name, "in": "path", "required": True, "description": description, "schema": schema} | {
        "example": example
    }


def _edit_bodies(fields: Mapping[str, Schema]) -> Schema:
    """Describe the multipart and the JSON body."""
    file = {"type": "string", "format": "binary"}
    mask = "Picture of the source's size, transparent where it may change."
    form = {"image": file | {"description": "PNG, JPEG or WebP."}, "mask": file | {"description": mask}}
    url = {"type": "string", "pattern": "^data:image/(png|jpeg|webp);base64,"}
    picture = {"type": "object", "properties": {"image_url": url}, "required": ["image_url"]}
    images = {"type": "array", "items": picture, "minItems": 1, "maxItems": 1}
    bodies: dict[str, tuple[Schema, str]] = {
        "multipart/form-data": (form, "image"),
        "application/json": ({"images": images, "mask": picture | {"description": mask}}, "images"),
    }
    return {
        kind: {"schema": {"type": "object", "properties": {**fields, **pictures}, "required": ["prompt", image]}}
        for kind, (pictures, image) in bodies.items()
    }


def _bare_bodies() -> Schema:
    parameters = {"type": "object", "properties": {"prompt": {"type": "string"}}, "required": ["prompt"]}
    body = {"inputs": {"type": "string", "contentEncoding": "base64"}, "parameters": parameters}
    return {"application/json": {"schema": {"type": "object", "properties": body, "required": list(body)}}}


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>FireEdit API</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }}
h2 {{ margin-top: 2.5rem; font-size: 1.15rem; }} code {{ font-size: .95em; }}
table {{ border-collapse: collapse; width: 100%; font-size: .9rem; }}
td, th {{ text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #8884; }}
</style></head><body><h1>FireEdit API</h1>
<p>The same as <a href="/openapi.json">OpenAPI</a>. Try it in the <a href="/studio">studio</a>.</p>{body}</body></html>
"""


def page(described: Schema) -> str:
    """Render the document as a page that needs nothing else."""
    return PAGE.format(body="".join(_sections(described)))


def _sections(described: Schema) -> Iterator[str]:
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            if method == "parameters":
                continue
            yield f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(operation['summary'])}</p>"
            for kind, content in operation.get("requestBody", {}).get("content", {}).items():
                yield f"<h3>Body, <code>{escape(kind)}</code></h3>" + _table(_field_rows(content["schema"]))
            answers = ((status, answer["description"], "") for status, answer in operation["responses"].items())
            yield "<h3>Answers</h3>" + _table(answers)


def _field_rows(schema: Schema) -> Rows:
    for name, field in schema["properties"].items():
        kind = field["type"] + (f", {field['default']!r} by default" if "default" in field else "")
        kind += ", required" if name in schema["required"] else ""
        yield name, kind, field.get("description", "")


def _table(rows: Iterator[tuple[str, str, str]]) -> str:
    lines = ("".join(f"<td>{escape(str(cell))}</td>" for cell in row) for row in rows)
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"
