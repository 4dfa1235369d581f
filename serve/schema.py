"""What goes in and out at the door: an edit as a client asks for it, the answer and the error, in OpenAI's shapes."""

import base64
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self, TypeVar

import numpy as np

from fireedit.platform import images

D = TypeVar("D")
MAX_SEED = 2**63 - 1
FORMATS = ("png", "jpeg")
OPAQUE = ("auto", "opaque")


class BadRequest(ValueError):
    """A request that cannot be answered as it stands; the message says what was found and what to send."""

    def __init__(self, message: str, param: str | None = None, code: str = "invalid_value"):
        super().__init__(message, param, code)
        self.message, self.param, self.code = message, param, code

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True, kw_only=True)
class LimitsConfig:
    """The most that one request may ask for, and all together; they bound the memory and the time that it takes."""

    max_edits: int = 64
    """Under way in one replica of the gateway; what comes beyond is turned away with 429."""

    max_image_bytes: int = 50_000_000
    max_image_pixels: int = 25_000_000
    """Decoded, three bytes each."""
    max_image_aspect: float = 10.0
    """Long side to short side: the edited picture keeps it, and its short side is the canvas's."""
    max_prompt_chars: int = 32_000
    """OpenAI's; the VLM reads fewer, and says so."""
    max_images: int = 10
    max_steps: int = 1000
    max_guidance_scale: float = 100.0


@dataclass(frozen=True)
class Form:
    """A multipart body, taken apart."""

    texts: Mapping[str, str]
    files: Mapping[str, Sequence[bytes]]
    """Contents by the name of the part; what the client calls the files is not kept."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a client says of how to paint: `PaintSettings` without torch. None: as suits the weights."""

    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    image_guidance_scale: float | None = None
    keep_below: float | None = None
    negative_prompt: str | None = None


@dataclass(frozen=True, kw_only=True)
class EditRequest:
    image: np.ndarray
    """[H, W, 3] uint8 RGB."""
    prompt: str
    n: int
    seed: int
    """Of the first picture; the next ones follow it."""
    settings: Settings
    output_format: Literal["png", "jpeg"]
    output_compression: int
    """JPEG's quality; PNG is lossless."""
    regions: bool
    """Whether to tell where the VLM looked."""

    @classmethod
    def from_form(cls, form: Form, limits: LimitsConfig) -> Self:
        """Check every field and decode the picture.

        Raises:
            BadRequest: a field is missing, out of its range, or asks for what this server does not do.
        """
        fields = _Fields(form.texts)
        _refuse_unsupported(form, fields)
        longest, strongest = limits.max_prompt_chars, limits.max_guidance_scale
        return cls(
            prompt=fields.prompt(longest),
            n=fields.integer("n", 1, 1, limits.max_images),
            seed=fields.integer("seed", secrets.randbelow(2**32), 0, MAX_SEED),
            settings=Settings(
                num_inference_steps=fields.integer("num_inference_steps", None, 1, limits.max_steps),
                guidance_scale=fields.number("guidance_scale", None, 0, strongest),
                image_guidance_scale=fields.number("image_guidance_scale", None, 0, strongest),
                keep_below=fields.number("keep_below", None, 0, 1),
                negative_prompt=fields.text("negative_prompt", None, longest),
            ),
            output_format=fields.choice("output_format", FORMATS),
            output_compression=fields.integer("output_compression", 95, 0, 100),
            regions=fields.flag("regions"),
            image=_source(form, limits),
        )

    @property
    def seeds(self) -> tuple[int, ...]:
        """One for each picture."""
        return tuple(range(self.seed, self.seed + self.n))


@dataclass(frozen=True)
class Edited:
    """What the painter hands back for one edit."""

    images: list[np.ndarray]
    """uint8 RGB [h, w, 3] each."""
    boxes: np.ndarray
    """[R, 4] xyxy in [0, 1] of the picture's sides, best first."""
    scores: np.ndarray
    """[R] in [0, 1]."""


@dataclass(frozen=True)
class Picture:
    b64_json: str
    revised_prompt: None = None
    """OpenAI's; ours is painted as it was written."""


@dataclass(frozen=True)
class Region:
    box: list[float]
    """xyxy in [0, 1] of the picture's sides."""
    score: float


@dataclass(frozen=True)
class InputTokens:
    text_tokens: int = 0
    image_tokens: int = 0


@dataclass(frozen=True)
class Usage:
    """OpenAI's bill. Nothing is charged for here; it is there, all zero, because typed clients read it."""

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    input_tokens_details: InputTokens = field(default_factory=InputTokens)


@dataclass(frozen=True, kw_only=True)
class EditAnswer:
    created: int
    """Seconds since 1970."""
    data: list[Picture]
    output_format: str
    size: str
    """WIDTHxHEIGHT."""
    quality: str = "auto"
    background: str = "opaque"
    usage: Usage = field(default_factory=Usage)
    seed: int
    """Ours: asked for again, it gives these pictures again."""
    regions: list[Region] | None
    """Ours; left out unless it was asked for."""

    @classmethod
    def of(cls, asked: EditRequest, edited: Edited) -> Self:
        height, width = edited.images[0].shape[:2]
        return cls(
            created=int(time.time()),
            data=[Picture(base64.b64encode(_encode(image, asked)).decode()) for image in edited.images],
            output_format=asked.output_format,
            size=f"{width}x{height}",
            seed=asked.seed,
            regions=_regions(edited) if asked.regions else None,
        )

    def body(self) -> dict[str, Any]:
        """As it is sent."""
        body = asdict(self)
        if self.regions is None:
            del body["regions"]
        return body


@dataclass(frozen=True)
class ErrorAnswer:
    message: str
    type: str
    param: str | None = None
    code: str | None = None

    def body(self) -> dict[str, Any]:
        """As it is sent: OpenAI's envelope."""
        return {"error": asdict(self)}


class _Fields:
    """Scalars of a form: texts, each checked as it is taken."""

    def __init__(self, texts: Mapping[str, str]):
        self.texts = texts

    def prompt(self, longest: int) -> str:
        prompt = self.text("prompt", "", longest)
        if not prompt.strip():
            raise BadRequest("prompt: found none; write what to change", "prompt", "missing_required_parameter")
        return prompt

    def text(self, name: str, default: D, longest: int) -> str | D:
        text = self.texts.get(name)
        if text is None:
            return default
        if len(text) > longest:
            message = f"{name}: found {len(text):,} characters; write at most {longest:,}"
            raise BadRequest(message, name, "string_above_max_length")
        return text

    def integer(self, name: str, default: D, least: int, most: int) -> int | D:
        text = self.texts.get(name)
        if text is None:
            return default
        if not re.fullmatch(r"-?[0-9]{1,19}", text) or not least <= int(text) <= most:
            raise BadRequest(f"{name}: found {text[:40]!r}; write a whole number from {least} to {most}", name)
        return int(text)

    def number(self, name: str, default: D, least: float, most: float) -> float | D:
        text = self.texts.get(name)
        if text is None:
            return default
        try:
            number = float(text)
        except ValueError:
            number = float("nan")
        if not least <= number <= most:  # NaN is not, either
            raise BadRequest(f"{name}: found {text[:40]!r}; write a number from {least} to {most}", name)
        return number

    def choice(self, name: str, options: Sequence[str]) -> Any:
        """One of `options`; the first is the default."""
        text = self.texts.get(name, options[0])
        if text not in options:
            raise BadRequest(f"{name}: found {text[:40]!r}; write {' or '.join(options)}", name, "unsupported_value")
        return text

    def flag(self, name: str) -> bool:
        return self.choice(name, ("false", "true")) == "true"


def _refuse_unsupported(form: Form, fields: _Fields) -> None:
    """What clients know of OpenAI's API and would miss here; all else that is unknown does no harm."""
    if "mask" in form.files or "mask" in form.texts:
        message = "mask: this server finds the place by itself; leave the mask out and name the place in the prompt"
        raise BadRequest(message, "mask", "unsupported_parameter")
    if fields.flag("stream"):
        raise BadRequest("stream: this server does not stream; leave it out", "stream", "unsupported_value")
    fields.choice("response_format", ("b64_json",))
    fields.choice("size", ("auto",))
    fields.choice("background", OPAQUE)


def _source(form: Form, limits: LimitsConfig) -> np.ndarray:
    pictures = [*form.files.get("image", ()), *form.files.get("image[]", ())]
    if not pictures:
        message = "image: found no file; send the picture to edit as a file part called image"
        raise BadRequest(message, "image", "missing_required_parameter")
    if len(pictures) > 1:
        message = f"image: found {len(pictures)} pictures; this server edits one at a time: send one"
        raise BadRequest(message, "image", "unsupported_value")
    if len(pictures[0]) > limits.max_image_bytes:
        raise too_many_bytes(limits)
    try:
        image = images.decode(pictures[0], max_pixels=limits.max_image_pixels)
    except images.ImageError as error:
        raise BadRequest(f"image: {error}", "image", "invalid_image") from None
    height, width = image.shape[:2]
    if max(height, width) > limits.max_image_aspect * min(height, width):
        message = f"image: found {width} x {height}; send one at most {limits.max_image_aspect:g} times as long as wide"
        raise BadRequest(message, "image", "invalid_image")
    return image


def too_many_bytes(limits: LimitsConfig) -> BadRequest:
    message = f"image: found more than {limits.max_image_bytes:,} bytes; send a smaller file"
    return BadRequest(message, "image", "image_too_large")


def _encode(image: np.ndarray, asked: EditRequest) -> bytes:
    if asked.output_format == "jpeg":
        return images.encode_jpeg(image, quality=asked.output_compression)
    return images.encode_png(image)


def _regions(edited: Edited) -> list[Region]:
    return [
        Region(box=box, score=score) for box, score in zip(edited.boxes.tolist(), edited.scores.tolist(), strict=True)
    ]
