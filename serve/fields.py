"""Fields of a request to edit: texts and files of a form, checked when they are read. Imports no torch."""

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fireedit.models.settings import MAX_SEED, Setting, SettingValue, setting_fields
from fireedit.platform import images
from fireedit.platform.restoration import canvas_size
from fireedit.serve.schema import BadRequest, Box, EditRequest, LimitsConfig, Source, too_many_bytes

FORMATS = ("png", "jpeg", "webp")
BACKGROUNDS = ("auto", "opaque")
QUALITIES = ("auto", "low", "medium", "high", "xhigh", "max", "standard", "hd")
"""Qualities of OpenAI's models; all are taken and none changes the picture."""
UNSUPPORTED = ("markup", "frame_count", "frame_duration_ms", "svg")
"""Fields of OpenAI's API that would be missed in silence."""
INTEGER = re.compile(r"-?[0-9]{1,19}")
NUMBER = re.compile(r"[-+.0-9eE]{1,40}")
SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")
FLAGS = {"true": True, "1": True, "false": False, "0": False}
CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff]")
"""Control characters that are no white space, and halves of characters, which JSON can hold."""


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

    def chosen(self, *names: str) -> list[bytes]:
        """List the files of parts; empty ones are left out, as HTML forms send those not chosen."""
        return [file for name in names for file in self.files.get(name, ()) if file]

    def picture(self, limits: LimitsConfig) -> tuple[bytes, images.Header]:
        """Find the one picture and read its header.

        Raises:
            BadRequest: there is none or another one, or its header or size is not as `limits` allow.
        """
        files = self.chosen("image", "image[]")
        if not files:
            message = "image: found no file; send the image to edit as a file part named image"
            raise BadRequest(message, "image", "missing_required_parameter")
        if len(files) > 1:
            message = f"image: found {len(files)} images; this server edits one at a time: send one"
            raise BadRequest(message, "image", "unsupported_value")
        (file,) = files
        if len(file) > limits.max_image_bytes:
            raise too_many_bytes(limits)
        header = _header("image", file, limits)
        _check_aspect("image", header.size, limits)
        return file, header

    def mask(self, size: tuple[int, int], limits: LimitsConfig) -> bytes | None:
        """Find the mask, if any, and decode it once, so that a damaged one is refused now.

        Raises:
            BadRequest: it is damaged, of another size than the picture, or has no transparent pixel.
        """
        if self.value("mask"):
            raise BadRequest("mask: found a text; send a PNG as a file part", "mask", "invalid_image")
        files = self.chosen("mask", "mask[]")
        if len(files) > 1:
            raise BadRequest(f"mask: found {len(files)} masks; send one", "mask", "unsupported_value")
        if not files:
            return None
        found = _header("mask", files[0], limits).size
        if found != size:
            message = "mask: found {} x {}; send one of the image's size, {} x {}".format(*found, *size)
            raise BadRequest(message, "mask", "invalid_image")
        try:
            may_change = editable(files[0])
        except images.ImageError as error:
            raise BadRequest(f"mask: {error}", "mask", "invalid_image") from None
        if not may_change.any():
            message = "mask: found no transparent pixel; make transparent what may change"
            raise BadRequest(message, "mask", "invalid_image")
        return files[0]

    def size(self, source: tuple[int, int], side: int, n: int, limits: LimitsConfig) -> tuple[int, int]:
        """Read the size of the results: the source's by default, or no more than the canvas's.

        Raises:
            BadRequest: it is no size, or that of n results together is too large.
        """
        text = self.value("size") or "auto"
        if text in ("auto", "canvas"):
            size = source if text == "auto" else canvas_size(source, side)
        elif found := SIZE.fullmatch(text):
            size = int(found[1]), int(found[2])
            _check_aspect("size", size, limits)
        else:
            message = f"size: found {text[:40]!r}; write auto, canvas or WIDTHxHEIGHT, such as 1024x768"
            raise BadRequest(message, "size", "unsupported_value")
        if (pixels := n * size[0] * size[1]) > (most := limits.max_output_pixels):
            message = (
                f"size: {n} results of {size[0]} x {size[1]} have {pixels:,} pixels; ask for at most {most:,} in all"
            )
            raise BadRequest(message, "size")
        return size

    def regions(self, most: int) -> tuple[Box, ...] | None:
        """Read the boxes that the VLM is to look at, JSON of [[left, top, right, bottom], ...].

        Args:
            most: largest number of boxes.
        Raises:
            BadRequest: they are no boxes in [0, 1], or too many.
        """
        if (text := self.value("regions")) is None:
            return None
        wanted = f"1 to {most} boxes as JSON, [[left, top, right, bottom], ...] in [0, 1] of the image's sides"
        if not most:
            raise BadRequest(
                "regions: this server's editor looks at none; leave it out", "regions", "unsupported_value"
            )
        try:
            boxes = np.array(json.loads(text), np.float64)
            valid = boxes.ndim == 2 and boxes.shape[1] == 4 and len(boxes) <= most
            valid = valid and bool(((boxes >= 0) & (boxes <= 1)).all() and (boxes[:, :2] < boxes[:, 2:]).all())
        except (ValueError, TypeError, OverflowError, RecursionError):
            valid = False
        if not valid:
            raise BadRequest(f"regions: found {text[:40]!r}; write {wanted}", "regions")
        return tuple(tuple(box) for box in boxes.tolist())


def read_request(form: Form, limits: LimitsConfig, side: int, max_regions: int) -> EditRequest:
    """Check every field and decode the image to a canvas of `side` x `side` pixels.

    Raises:
        BadRequest: a field is missing, out of range, or not supported by this server.
    """
    _refuse_unsupported(form)
    file, header = form.picture(limits)
    n = form.integer("n", 1, 1, limits.max_images)
    output_format = form.choice("output_format", FORMATS)
    opaque = form.choice("background", BACKGROUNDS) == "opaque" or output_format == "jpeg"
    return EditRequest(
        prompt=form.prompt(limits.max_prompt_chars),
        n=n,
        seed=form.integer("seed", secrets.randbelow(2**32), 0, MAX_SEED),
        settings=form.settings(limits),
        size=form.size(header.size, side, n, limits),
        output_format=output_format,
        output_compression=form.integer("output_compression", 95, 0, 100),
        opaque=opaque,
        regions=form.regions(max_regions),
        return_regions=form.flag("return_regions"),
        stream=form.flag("stream"),
        partial_images=form.integer("partial_images", 0, 0, 3),
        reproducible=form.flag("reproducible"),
        mask=form.mask(header.size, limits),
        source=_decoded(file, side, limits, images.WHITE if opaque else images.GRAY),
    )


def editable(mask: bytes) -> np.ndarray:
    """Decode how far a mask lets each pixel change, uint8 [H, W]: 255 where it is transparent.

    Raises:
        ImageError: it is damaged or has no transparency.
    """
    alpha = images.Picture(mask).alpha()
    if alpha is None:
        raise images.ImageError("found no transparency; make transparent what may change")
    return 255 - alpha


def _refuse_unsupported(form: Form) -> None:
    """Refuse features of OpenAI's API that would be missed silently; other unknown fields are ignored."""
    for name in UNSUPPORTED:
        if form.value(name) or form.chosen(name, f"{name}[]"):
            raise BadRequest(f"{name}: not supported by this server; leave it out", name, "unsupported_parameter")
    form.choice("response_format", ("b64_json",))
    form.choice("quality", QUALITIES)
    form.choice("input_fidelity", ("high", "low"))


def _header(name: str, file: bytes, limits: LimitsConfig) -> images.Header:
    try:
        return images.header(file, limits.max_image_pixels)
    except images.ImageError as error:
        raise BadRequest(f"{name}: {error}", name, "invalid_image") from None


def _check_aspect(name: str, size: tuple[int, int], limits: LimitsConfig) -> None:
    if max(size) > (longest := limits.max_image_aspect) * min(size):
        message = f"{name}: found {size[0]} x {size[1]}; send one at most {longest:g} times as long as wide"
        raise BadRequest(message, name, "invalid_image" if name == "image" else "invalid_value")


def _decoded(file: bytes, side: int, limits: LimitsConfig, ground: images.Color) -> Source:
    try:
        picture = images.Picture(file, limits.max_image_pixels)
        return Source(picture.canvas(side, ground), picture.size, file)
    except images.ImageError as error:
        raise BadRequest(f"image: {error}", "image", "invalid_image") from None
