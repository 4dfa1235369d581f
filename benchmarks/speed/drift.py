"""Drift of nano's pictures by each switch: difference to those without it, and success, on held-out scenes."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from fireedit.jobs.evaluation.cases import FAMILIES, Cases, stacked
from fireedit.jobs.evaluation.judges import Judges
from fireedit.models.editors.fireedit import FireEdit
from fireedit.models.model import NANO
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.speed import SpeedConfig, accelerate

STEPS, GUIDANCE = 10, {"guidance_scale": 3.0, "image_guidance_scale": 1.5, "keep_below": 0.0}
SWITCHES: Sequence[dict[str, Any]] = (
    {},
    {"share_keys": True},
    {"channels_last": True},
    {"prefixes": 2},
    {"guidance_interval": (0.0, 0.8)},
    {"guidance_interval": (0.2, 0.8)},
    {"reuse_every": 2},
    {"reuse_every": 3},
    {"reuse_every": 5},
    {"guidance_interval": (0.2, 0.8), "reuse_every": 2},
)
SPLIT = "unseen_seeds"


def measure_drift(device: torch.device, dtype: torch.dtype, of_each_family: int) -> Iterator[dict[str, Any]]:
    """Edit the same scenes with each switch; the first row is without any.

    In half precision the last row is without any in float32: pictures that are nearer to the first row than these
    differ by less than the precision's own rounding.
    """
    runs = [(switches, dtype) for switches in SWITCHES] + [({}, torch.float32)] * (dtype != torch.float32)
    pipeline = FireEditPipeline.from_pretrained("nano", dtype=dtype).to(device)
    side = pipeline.vae.config.sample_size
    cases = [case for family in FAMILIES for case in Cases(side).of(SPLIT, family, of_each_family)]
    judges, settings = Judges.load(NANO), pipeline.settings.but(num_inference_steps=STEPS, **GUIDANCE)
    sources, texts, seeds = (
        list(stacked(cases, "source")),
        [each.instruction for each in cases],
        [each.seed for each in cases],
    )
    reference: np.ndarray | None = None
    for switches, precision in runs:
        if pipeline.unet.dtype != precision:
            pipeline = FireEditPipeline.from_pretrained("nano", dtype=precision).to(device)
        accelerate(pipeline, SpeedConfig(**switches))
        begun = time.monotonic()
        edited = np.stack(FireEdit(pipeline).edit(sources, texts, seeds, settings))
        seconds = time.monotonic() - begun
        reference = edited if reference is None else reference
        yield {
            "switches": ", ".join(f"{name} {value}" for name, value in switches.items()) or "none",
            "precision": str(precision).removeprefix("torch."),
            "edits": len(cases),
            "difference_of_255": float(np.abs(edited.astype(float) - reference).mean()),
            "success": float(np.mean([score.success for score in judges.scores(cases, edited)])),
            "edit_s": seconds / len(cases),
        }
