"""Request to edit, its limits, and the results that the stages return. Imports no torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from pydantic import Field

from fireedit.models.settings import MAX_SEED, Setting, SettingValue
from fireedit.platform import images

Box = tuple[float, float, float, float]
"""Left, top, right and bottom in [0, 1] of the image's sides."""
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
    """Ratio of the long to the short side."""
    max_output_pixels: int = 25_000_000
    """Pixels of all results of one request."""
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
class Source:
    """Source of an edit: its canvas, and its file, whose pixels are decoded again once the edit is painted."""

    canvas: np.ndarray
    """[S, S, 3] uint8 RGB, squashed to the side S of the VAE's pictures."""
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

    source: Source
    mask: bytes | None = None
    """Encoded mask of the source's size, which may change where the mask is transparent; None: everywhere."""
    regions: tuple[Box, ...] | None = None
    """Regions that the VLM looks at; None: the detector's."""
    prompt: str
    n: int
    seed: int
    """Seed of the first image; the next images use the next seeds, and 0 after the largest."""
    settings: Mapping[str, SettingValue]
    """Fields of `PaintSettings` in the request; the others stay as saved with the weights."""
    size: tuple[int, int]
    """Width and height of the results."""
    output_format: images.Format = "png"
    output_compression: int = 95
    """Quality of a JPEG or WebP, 0 to 100; PNG is lossless."""
    opaque: bool = False
    """True lays transparent pixels over white."""
    return_regions: bool = False
    """True adds the regions that the VLM looked at to the response."""
    stream: bool = False
    partial_images: int = 0
    """Number of pictures to show before the last step."""
    reproducible: bool = False
    """True runs the edit alone in its batch: the same picture on the same device, whatever else is running."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the images, in order."""
        return tuple((self.seed + index) % (MAX_SEED + 1) for index in range(self.n))


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Tokens that the models read and wrote for one edit."""

    text: int = 0
    image: int = 0
    """Tokens of the picture and of its regions."""
    output: int = 0
    """[IMG] tokens, the VLM's answer."""


@dataclass(frozen=True)
class Edited:
    """Result of one edit, before it is brought back to the source's size."""

    canvases: list[np.ndarray]
    """uint8 RGB [S, S, 3] each."""
    changed: list[np.ndarray]
    """Cells of the latents that the edit changed, bool [h, w] each."""
    boxes: np.ndarray
    """[R, 4] xyxy in [0, 1] of the image's sides, best first."""
    scores: np.ndarray
    """[R] in [0, 1]."""
    tokens: Tokens


def too_many_bytes(limits: LimitsConfig) -> BadRequest:
    message = f"image: found more than {limits.max_image_bytes:,} bytes; send a smaller file"
    return BadRequest(message, "image", "image_too_large")
