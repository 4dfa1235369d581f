"""Edits with known answers: held-out scenes in many sizes, and the pictures that the pipeline alone makes of them."""

import hashlib
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from fireedit.benchmarks.measuring import cpu_seconds, cpu_since, family
from fireedit.benchmarks.serving.client import EDITS, Answer, form, request
from fireedit.models.model import NANO
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.settings import SettingValue
from fireedit.platform import storage
from fireedit.platform.console import say
from fireedit.platform.images import Picture, decode, encode_png
from fireedit.platform.processes import in_new_process
from fireedit.platform.scenes.families import make_edit
from fireedit.platform.scenes.render import draw_scene
from fireedit.platform.scenes.world import WORLDS

SIDE = 192
"""Longest side of a source, pixels: as many files a person as a server sees, with little time for decoding."""
SHAPES = ((192, 192), (192, 144), (128, 192), (160, 160), (96, 192))
"""Height and width that sources are cut to, in turn."""
FAMILIES = ("recolor", "add", "remove", "replace", "background", "style")
STEPS = (3, 10, 30)
GUIDANCE: tuple[Mapping[str, SettingValue], ...] = ({}, {"guidance_scale": 4.0, "image_guidance_scale": 1.5})
GUIDED = GUIDANCE[1]
CACHE = Path(storage.join(storage.home(), "benchmarks", "answers"))


@dataclass(frozen=True)
class Threads:
    """Threads of torch in each stage."""

    detector: int
    vlm: int
    unet: int


@dataclass(frozen=True)
class Edit:
    """One edit as a client asks for it."""

    file: bytes
    """Source picture, PNG."""
    instruction: str
    seed: int
    settings: tuple[tuple[str, SettingValue], ...]

    def body(self, **fields: object) -> bytes:
        """Build the multipart body."""
        return form(self.file, {"prompt": self.instruction, "seed": self.seed, **dict(self.settings), **fields})

    def request(self, headers: Mapping[str, object] | None = None, **fields: object) -> bytes:
        """Build the whole HTTP request."""
        return request("POST", EDITS, self.body(**fields), headers)

    def is_answered_by(self, answer: Answer, picture: np.ndarray) -> bool:
        """Compare the one picture of an answer byte for byte."""
        if answer.status != 200:
            return False
        pictures = answer.pictures()
        return len(pictures) == 1 and np.array_equal(pictures[0], picture)


def draw(
    count: int, first: int = 0, steps: Sequence[int] = STEPS, guidance: Sequence[Mapping] = GUIDANCE
) -> list[Edit]:
    """Draw `count` edits of different pictures from number `first` on, with settings that take turns."""
    settings = [(number, scales) for scales in guidance for number in steps]
    return [
        Edit(file, instruction, first + number, tuple({"num_inference_steps": turn[0], **turn[1]}.items()))
        for number, ((file, instruction), turn) in enumerate(
            zip(itertools.islice(_sources(), first, first + count), itertools.cycle(settings), strict=False)
        )
    ]


def _sources() -> Iterator[tuple[bytes, str]]:
    """Yield encoded sources and their instructions: families take turns, and so do shapes."""
    world = WORLDS["unseen_seeds"]
    for number, (height, width) in enumerate(itertools.cycle(SHAPES)):
        edit = make_edit(world, world.seeds[number], FAMILIES[number % len(FAMILIES)])
        source = draw_scene(edit.source, SIDE).image[:height, :width]
        yield encode_png(np.ascontiguousarray(source)), edit.instruction


def solo_answers(edits: Sequence[Edit], threads: Threads) -> list[np.ndarray]:
    """Edit each alone in a process without Ray, with the stages' torch threads; finished pictures are kept."""
    paths = [CACHE / f"{_key(edit, threads)}.png" for edit in edits]
    missing = [(edit, path) for edit, path in zip(edits, paths, strict=True) if not path.exists()]
    if missing:
        say(f"edits alone in process: {len(missing)} of {len(edits)}, the others are known")
        CACHE.mkdir(parents=True, exist_ok=True)
        in_new_process(_paint_all, missing, threads)
    return [decode(path.read_bytes()) for path in paths]


def time_in_process(edits: Sequence[Edit], threads: Threads) -> tuple[float, float]:
    """Measure seconds and CPU seconds per edit in a new process without Ray, one edit at a time, after a warm-up."""
    return in_new_process(_time_all, edits, threads)


def _paint_all(missing: Sequence[tuple[Edit, Path]], threads: Threads) -> None:
    pipeline = load_nano()
    for edit, path in missing:
        written = path.with_suffix(".new")
        written.write_bytes(encode_png(_paint(pipeline, edit, threads)))
        written.rename(path)


def _time_all(edits: Sequence[Edit], threads: Threads) -> tuple[float, float]:
    pipeline = load_nano()
    _paint(pipeline, edits[0], threads)
    began, before = time.monotonic(), cpu_seconds(family())
    for edit in edits:
        encode_png(_paint(pipeline, edit, threads))
    return (time.monotonic() - began) / len(edits), cpu_since(before, family()) / len(edits)


def load_nano(parts: Sequence[str] | None = None) -> FireEditPipeline:
    """Load the shipped pipeline in float32, as the service does, without progress bars."""
    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()
    pipeline = FireEditPipeline.from_pretrained("nano", parts, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _paint(pipeline: FireEditPipeline, edit: Edit, threads: Threads) -> np.ndarray:
    """Call the pipeline's parts as its `__call__` does; sums in float32 depend on the threads that each runs on."""
    source, settings = Picture(edit.file), pipeline.settings.but(**dict(edit.settings))
    canvases = [source.canvas(pipeline.vae.config.sample_size)]
    torch.set_num_threads(threads.detector)
    percepts = pipeline.perceive(canvases)
    torch.set_num_threads(threads.vlm)
    tokens = pipeline.understand(percepts, [edit.instruction])
    torch.set_num_threads(threads.unet)
    noise = [torch.Generator().manual_seed(edit.seed)]
    state = pipeline.prepare(canvases, percepts, tokens, settings, noise)
    return pipeline.restore(state, pipeline.paint(state), [source], canvases)[0]


def _key(edit: Edit, threads: Threads) -> str:
    digest = hashlib.sha256(_code_and_weights())
    digest.update(repr((edit.file, edit.instruction, edit.seed, edit.settings, threads, torch.__version__)).encode())
    return digest.hexdigest()


@cache
def _code_and_weights() -> bytes:
    """Hash the models' sources and nano's files: a picture of others is not reused."""
    digest = hashlib.sha256()
    for path in sorted(path for path in NANO.parent.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.digest()
