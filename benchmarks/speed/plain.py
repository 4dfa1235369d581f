"""Pipeline to compare with: diffusers' InstructPix2Pix of random weights, which has no VLM, TATI or HVCA."""

from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    EulerAncestralDiscreteScheduler,
    StableDiffusionInstructPix2PixPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import AutoTokenizer
from transformers.modeling_utils import local_torch_dtype

from fireedit.benchmarks.speed.card import peak_gib, reserved_gib, restart_peak, seconds_of
from fireedit.benchmarks.speed.edits import PROMPTS
from fireedit.models.model import NANO, FireEditConfig
from fireedit.models.text import build_text_encoder

EXTRA = ("reads_last_token", "adds_source", "detail_tokens", "detail_scale")
"""Sizes of EditUNet that diffusers' UNet does not know."""
FEW_STEPS = 5


def build(config: FireEditConfig, device: torch.device, dtype: torch.dtype) -> StableDiffusionInstructPix2PixPipeline:
    """Build it of the sizes of FireEdit's own UNet, VAE and text encoder."""
    blocks = {name: value for name, value in asdict(config.unet).items() if name not in EXTRA}
    with device, local_torch_dtype(dtype):
        parts = {
            "unet": UNet2DConditionModel(**blocks),
            "vae": AutoencoderKL(**asdict(config.vae)),
            "text_encoder": build_text_encoder(config.text),
        }
    pipeline = StableDiffusionInstructPix2PixPipeline(
        **{name: part.eval().requires_grad_(False) for name, part in parts.items()},
        tokenizer=AutoTokenizer.from_pretrained(NANO / "tokenizer"),
        scheduler=EulerAncestralDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def compile_unet(pipeline: StableDiffusionInstructPix2PixPipeline, device: torch.device, backend: str) -> None:
    """Compile its UNet as diffusers' guide says, with CUDA graphs on a GPU."""
    on_card = device.type == "cuda" and backend == "inductor"
    options: dict[str, Any] = {"mode": "reduce-overhead"} if on_card else {}
    pipeline.unet = torch.compile(pipeline.unet, backend=backend, fullgraph=True, **options)


def latency(
    pipeline: StableDiffusionInstructPix2PixPipeline, config: FireEditConfig, device: torch.device, steps: int
) -> dict[str, float | None]:
    """Measure an edit, and milliseconds of a step: the difference to an edit of few steps."""
    side = config.vae.sample_size
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8))

    def edit(count: int) -> None:
        scales = {"guidance_scale": 7.5, "image_guidance_scale": 1.5}
        generator = torch.Generator(device).manual_seed(0)
        pipeline(PROMPTS[0], picture, num_inference_steps=count, **scales, output_type="np", generator=generator)

    few = min(FEW_STEPS, steps - 1)
    edit(few)
    restart_peak(device)
    taken = {count: min(seconds_of(partial(edit, count), device) for _ in range(2)) for count in (few, steps)}
    step_s = (taken[steps] - taken[few]) / (steps - few)
    memory = {"peak_gib": peak_gib(device), "reserved_gib": reserved_gib(device)}
    return {"edit_s": taken[steps], "step_ms": 1000 * step_s, **memory}
