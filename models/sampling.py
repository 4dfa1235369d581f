"""Sampling: the state of edits between two denoising steps, and classifier-free guidance by text and image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from diffusers import DDIMScheduler, EulerAncestralDiscreteScheduler
from torch import Tensor

from fireedit.models.model import Conditions, FireEdit
from fireedit.models.settings import PaintSettings

Generators = Sequence[torch.Generator] | torch.Generator | None
Sampler: TypeAlias = EulerAncestralDiscreteScheduler | DDIMScheduler


@dataclass
class SamplingState:
    """State between two denoising steps of N outputs from B sources."""

    model: FireEdit
    settings: PaintSettings
    scheduler: Sampler
    generators: Generators
    source_of: Tensor
    """[N], the source of each output."""
    source: Tensor
    """[N, C, h, w], unscaled latents of the sources."""
    edit_tokens: Tensor
    """[B, 77, 768]."""
    detail_tokens: Tensor | None
    """[B, 16, 768]; None without HVCA."""
    null_tokens: Tensor | None
    """[1, 77, 768], text states of the unconditional prompt; None without guidance."""
    latents: Tensor
    """float32 [N, C, h, w], at the timestep of `step`."""
    step: int = 0
    """Number of steps done."""


def predict_guided(state: SamplingState, noisy: Tensor, timestep: Tensor, conditions: Conditions) -> Tensor:
    """Predict from `noisy` [N, C, h, w], guided by text and image; float32.

    Args:
        conditions: of the B sources.

    Source: InstructPix2Pix (arXiv 2211.09800), equation 3.
    """
    source, timed_tokens = state.source, conditions.timed_tokens[state.source_of]
    detail = None if conditions.detail_tokens is None else conditions.detail_tokens[state.source_of]
    if state.null_tokens is None:
        return state.model.predict(noisy, source, timestep, Conditions(timed_tokens, detail)).float()
    # Branches: text and image, image alone, neither. Detail tokens belong to the image.
    null_tokens = state.null_tokens.expand_as(timed_tokens)
    branches = Conditions(
        torch.cat([timed_tokens, null_tokens, null_tokens]),
        None if detail is None else torch.cat([detail, detail, torch.zeros_like(detail)]),
    )
    sources = torch.cat([source, source, torch.zeros_like(source)])
    predicted = state.model.predict(torch.cat([noisy] * 3), sources, timestep, branches).float()
    full, image_only, unconditional = predicted.chunk(3)
    return (
        unconditional
        + state.settings.guidance_scale * (full - image_only)
        + state.settings.image_guidance_scale * (image_only - unconditional)
    )
