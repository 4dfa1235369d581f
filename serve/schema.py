"""Request, response and error of an edit, in the shapes of OpenAI's images API. Imports no torch."""

import base64
import math
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field

from fireedit.models.settings import Setting, SettingValue, setting_fields
from fireedit.platform import images

MAX_SEED = 2**63 - 1
FORMATS = ("png", "jpeg")
OPAQUE = ("auto", "opaque")
INTEGER = re.compile(r"-?[0-9]{1,19}")
NUMBER = re.compile(r"[-+.0-9eE]{1,40}")
FLAGS = {"true": True, "1": True, "false": False, "0": False}
CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")
"""Control characters that are no white space."""

Positive = Annotated[float, Field(gt=0)]


class BadRequest(ValueError):
    """Invalid request; the message says what was found and what to send."""

    def __init__(self, message: str, param: str | None = None, code: str = "invalid_value"):
        super().__init__(message, param, code)
        self.message, self.param, self.code = message, param, code

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True, kw_only=True)
class LimitsConfig:
    """Limits of one request, and of all together, that bound memory and time."""

    max_queue_s: Annotated[float, Field(ge=0)] = 30
    """Seconds that an edit may wait in the queue of one gateway; one that would wait longer is answered with 429."""
    unit_s: Positive = 0.03
    """Seconds per step of one branch of one image, a first guess for nano on two busy cores, shared by two gateways;
    each learns it from finished edits."""
    request_timeout_s: Positive = 590
    """Seconds from a request's head to its answer, if the client asks for no less."""

    body_timeout_s: Positive = 60
    """Seconds for a whole body."""
    min_body_bytes_per_s: Annotated[int, Field(ge=1)] = 10_000
    """Rate below which a body is given up, after the first 5 seconds."""
    max_bodies_bytes: int = 256_000_000
    """Bytes of the bodies of all requests of one gateway."""

    max_image_bytes: int = 50_000_000
    max_image_pixels: int = 25_000_000
    """Pixels of the decoded image, three bytes each."""
    max_image_aspect: float = 10.0
    """Ratio of the long to the short side; the edited image keeps it, with the canvas's side as its short one."""
    max_prompt_chars: int = 32_000
    """Characters, as OpenAI allows; the VLM reads fewer and rejects the rest."""
    max_images: int = 10
    max_steps: int = 1000
    max_guidance_scale: float = 100.0

    def narrow(self, setting: Setting) -> Setting:
        """Lower the maximum of a sampler setting to this server's limit, if it has one."""
        guidance = self.max_guidance_scale
        limits = {"num_inference_steps": self.max_steps, "guidance_scale": guidance, "image_guidance_scale": guidance}
        return replace(setting, maximum=min(setting.maximum, limits.get(setting.name, setting.maximum)))


@dataclass(frozen=True)
class Form:
    """Parts of a multipart body; texts are checked when read."""

    texts: Mapping[str, str]
    files: Mapping[str, Sequence[bytes]]
    """File contents by name of the part; the client's file names are dropped."""

    def value(self, name: str) -> str | None:
        """Read a field; None if it is left out or empty, as clients in Go and HTML forms send what they leave out."""
        return self.texts.get(name) or None

    def prompt(self, longest: int) -> str:
        prompt = self.text("prompt", longest)
        if not prompt.strip():
            raise BadRequest("prompt: found none; write what to change", "prompt", "missing_required_parameter")
        return prompt

    def text(self, name: str, longest: int) -> str:
        """Read a text; tabs and line ends are part of it, other control characters a client's mistake."""
        text = self.value(name) or ""
        if len(text) > longest:
            message = f"{name}: found {len(text):,} characters; write at most {longest:,}"
            raise BadRequest(message, name, "string_above_max_length")
        if control := CONTROLS.search(text):
            message = f"{name}: found the control character U+{ord(control[0]):04X}; leave it out"
            raise BadRequest(message, name)
        return text

    def integer(self, name: str, default: int, least: float, most: float) -> int:
        text = self.value(name) or str(default)
        if not INTEGER.fullmatch(text) or not least <= int(text) <= most:
            raise BadRequest(f"{name}: found {text[:40]!r}; write a whole number from {least} to {most}", name)
        return int(text)

    def settings(self, limits: LimitsConfig) -> dict[str, SettingValue]:
        """Sampler settings that the form holds, within their declared range and this server's limits."""
        declared = [limits.narrow(setting) for setting in setting_fields()]
        return {each.name: self._setting(each, text, limits) for each in declared if (text := self.value(each.name))}

    def _setting(self, setting: Setting, text: str, limits: LimitsConfig) -> SettingValue:
        name = setting.name
        if setting.type is str:
            return self.text(name, limits.max_prompt_chars)
        if setting.type is int:
            return self.integer(name, 0, setting.minimum, setting.maximum)
        try:
            if not NUMBER.fullmatch(text):
                raise ValueError
            setting.check(value := float(text))
        except ValueError:
            raise BadRequest(f"{name}: found {text[:40]!r}; write {setting.domain}", name) from None
        return value

    def choice(self, name: str, options: Sequence[str]) -> Any:
        """Read a field with a fixed set of values; the first is the default."""
        text = self.value(name) or options[0]
        if text not in options:
            raise BadRequest(f"{name}: found {text[:40]!r}; write {' or '.join(options)}", name, "unsupported_value")
        return text

    def flag(self, name: str) -> bool:
        """Read a field of true or false, in any case, or 1 or 0; left out, it is false."""
        text = self.value(name) or "false"
        if text.lower() not in FLAGS:
            raise BadRequest(f"{name}: found {text[:40]!r}; write true or false", name)
        return FLAGS[text.lower()]

    def picture(self, limits: LimitsConfig) -> tuple[bytes, images.Header]:
        """Find the one picture and read its header; empty files are left out, as HTML forms send those not chosen.

        Raises:
            BadRequest: there is none or another one, or its header or size is not as `limits` allow.
        """
        files = [file for name in ("image", "image[]") for file in self.files.get(name, ()) if file]
        if not files:
            message = "image: found no file; send the image to edit as a file part named image"
            raise BadRequest(message, "image", "missing_required_parameter")
        if len(files) > 1:
            message = f"image: found {len(files)} images; this server edits one at a time: send one"
            raise BadRequest(message, "image", "unsupported_value")
        (file,) = files
        if len(file) > limits.max_image_bytes:
            raise too_many_bytes(limits)
        try:
            header = images.header(file, limits.max_image_pixels)
        except images.ImageError as error:
            raise BadRequest(f"image: {error}", "image", "invalid_image") from None
        width, height = header.size
        if max(height, width) > (longest := limits.max_image_aspect) * min(height, width):
            message = f"image: found {width} x {height}; send one at most {longest:g} times as long as wide"
            raise BadRequest(message, "image", "invalid_image")
        return file, header


@dataclass(frozen=True)
class Picture:
    """Source of an edit: its canvas, and its file for whoever needs all of its pixels again."""

    canvas: np.ndarray
    """[S, S, 3] uint8 RGB, squashed to the side S of the VAE's pictures as `models.processor.squash` does."""
    size: tuple[int, int]
    """Width and height of the source, upright."""
    file: bytes
    """Encoded, as received."""


@dataclass(frozen=True, kw_only=True)
class EditJob:
    """Orders for the denoising of one edit."""

    settings: Mapping[str, SettingValue]
    """Fields of `PaintSettings` in the request; the others stay as saved with the weights."""
    seeds: tuple[int, ...]
    """Seed of each image."""
    size: tuple[int, int]
    """Width and height of the source, upright; the images keep its aspect."""
    reproducible: bool = False
    """True runs the edit alone in its batch."""
    partial_images: int = 0
    """Partial pictures that whoever watches the edit gets."""
    deadline: float = math.inf
    """Seconds of `time.time()` after which nobody waits for the edit."""
    caller: str = ""
    """Ray actor name of the gateway's replica; empty if there is nobody to watch."""
    request_id: str = ""


class DeadlineExceeded(Exception):
    """An edit's deadline passed before it was done."""


@dataclass(frozen=True, kw_only=True)
class EditRequest:
    """Validated request for one or more edits of an image."""

    picture: Picture
    prompt: str
    n: int
    seed: int
    """Seed of the first image; the next images use the next seeds, and 0 after the largest."""
    settings: Mapping[str, SettingValue]
    """Fields of `PaintSettings` in the request; the others stay as saved with the weights."""
    output_format: Literal["png", "jpeg"]
    output_compression: int
    """Quality of a JPEG, 0 to 100; PNG is lossless."""
    regions: bool
    """True adds the detector's boxes to the response."""
    reproducible: bool
    """True runs the edit alone in its batch: the same picture on the same device, whatever else is running."""

    @classmethod
    def from_form(cls, form: Form, limits: LimitsConfig, side: int) -> Self:
        """Check every field and decode the image to a canvas of `side` x `side` pixels.

        Raises:
            BadRequest: a field is missing, out of range, or not supported by this server.
        """
        _refuse_unsupported(form)
        return cls(
            prompt=form.prompt(limits.max_prompt_chars),
            n=form.integer("n", 1, 1, limits.max_images),
            seed=form.integer("seed", secrets.randbelow(2**32), 0, MAX_SEED),
            settings=form.settings(limits),
            output_format=form.choice("output_format", FORMATS),
            output_compression=form.integer("output_compression", 95, 0, 100),
            regions=form.flag("regions"),
            reproducible=form.flag("reproducible"),
            picture=_decoded(form.picture(limits)[0], side, limits),
        )

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the images, in order."""
        return tuple((self.seed + index) % (MAX_SEED + 1) for index in range(self.n))


@dataclass(frozen=True)
class Edited:
    """Result of one edit, as the UNet deployment returns it."""

    images: list[np.ndarray]
    """uint8 RGB [h, w, 3] each."""
    boxes: np.ndarray
    """[R, 4] xyxy in [0, 1] of the image's sides, best first."""
    scores: np.ndarray
    """[R] in [0, 1]."""


def edit_body(request: EditRequest, edited: Edited) -> dict[str, Any]:
    """Build the JSON body of a response: OpenAI's, with `seed` and, on request, `regions` added.

    Typed clients expect `usage`, though nothing is billed, and `revised_prompt`, though the prompt is used unchanged.
    """
    height, width = edited.images[0].shape[:2]
    quality, jpeg = request.output_compression, request.output_format == "jpeg"
    files = [images.encode_jpeg(image, quality) if jpeg else images.encode_png(image) for image in edited.images]
    tokens = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
    body = {
        "created": int(time.time()),
        "data": [{"b64_json": base64.b64encode(file).decode(), "revised_prompt": None} for file in files],
        "output_format": request.output_format,
        "size": f"{width}x{height}",
        "quality": "auto",
        "background": "opaque",
        "usage": {**tokens, "input_tokens_details": {"text_tokens": 0, "image_tokens": 0}},
        "seed": request.seed,
    }
    if request.regions:
        boxes = zip(edited.boxes.tolist(), edited.scores.tolist(), strict=True)
        body["regions"] = [{"box": box, "score": score} for box, score in boxes]
    return body


def _refuse_unsupported(form: Form) -> None:
    """Refuse features of OpenAI's API that would be missed silently; other unknown fields are ignored."""
    if any(form.files.get("mask", ())) or form.value("mask"):
        message = "mask: not supported; leave it out and name the object or place to edit in the prompt"
        raise BadRequest(message, "mask", "unsupported_parameter")
    form.choice("response_format", ("b64_json",))
    form.choice("size", ("auto",))
    form.choice("background", OPAQUE)


def _decoded(file: bytes, side: int, limits: LimitsConfig) -> Picture:
    try:
        return Picture(*images.decode_canvas(file, side, limits.max_image_pixels), file)
    except images.ImageError as error:
        raise BadRequest(f"image: {error}", "image", "invalid_image") from None


def too_many_bytes(limits: LimitsConfig) -> BadRequest:
    message = f"image: found more than {limits.max_image_bytes:,} bytes; send a smaller file"
    return BadRequest(message, "image", "image_too_large")
