"""Sampling: the state of edits between two denoising steps, and classifier-free guidance by text and image."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fireedit.models.model import Conditions, FireEdit
from fireedit.models.sampler import Generators, Sampler, take_step
from fireedit.models.settings import PaintSettings


@dataclass
class SamplingState:
    """State between two denoising steps of N outputs from B sources, all with the same settings."""

    settings: PaintSettings
    scheduler: Sampler
    generators: Generators
    source_of: Tensor
    """[N], the source of each output."""
    source: Tensor
    """float32 [N, C, h, w], unscaled latents of the sources."""
    edit_tokens: Tensor
    """[B, 77, 768]."""
    detail_tokens: Tensor | None
    """[B, 16, 768]; None without HVCA."""
    null_tokens: Tensor | None
    """[1, 77, 768], text states of the unconditional prompt; None without guidance."""
    null_detail: Tensor | None
    """[B, 16, 768], v of the null tokens; None where the branch without text reads `detail_tokens`."""
    latents: Tensor
    """float32 [N, C, h, w], at the timestep of `step`."""
    step: int = 0
    """Number of steps done."""
    clean: Tensor | None = None
    """float32 [N, C, h, w], clean latents as predicted at the last step; None before the first one, or if the sampler
    does not tell them."""

    @property
    def timestep(self) -> Tensor:
        """Timestep of the next denoising step, a scalar."""
        return self.scheduler.timesteps[self.step]

    @property
    def steps_left(self) -> int:
        return len(self.scheduler.timesteps) - self.step

    @property
    def branches(self) -> int:
        """Samples of this state in one forward of the UNet."""
        return len(self.latents) * (1 if self.null_tokens is None else 3)

    @property
    def noisy(self) -> Tensor:
        """Latents as the UNet reads them, float32 [N, C, h, w]."""
        return self.scheduler.scale_model_input(self.latents, self.timestep)

    def advance(self, predicted: Tensor) -> None:
        """Take the sampler's next step with the UNet's prediction, float32 [N, C, h, w]."""
        output = take_step(self.scheduler, predicted, self.timestep, self.latents, self.generators)
        self.latents, self.clean = output.prev_sample, getattr(output, "pred_original_sample", None)
        self.step += 1


def predict_guided(model: FireEdit, states: Sequence[SamplingState]) -> list[Tensor]:
    """Predict for states at timesteps of their own, in one forward; float32 [N_i, C, h, w], guided by text and image.

    Source: InstructPix2Pix (arXiv 2211.09800), equation 3.
    """
    counts = [len(state.edit_tokens) for state in states]
    edit_tokens = torch.cat([state.edit_tokens for state in states])
    timesteps = torch.cat([state.timestep.expand(count) for state, count in zip(states, counts, strict=True)])
    timed_tokens = model.condition(edit_tokens, timesteps).timed_tokens.split(counts)
    branches = [_branches(*each) for each in zip(states, timed_tokens, strict=True)]
    noisy, source, timesteps, tokens, *detail = map(torch.cat, zip(*branches, strict=True))
    predicted = model.predict(noisy, source, timesteps, Conditions(tokens, detail[0] if detail else None))
    parts = predicted.split([state.branches for state in states])
    return [
        each if state.null_tokens is None else guided(each, state.settings)
        for state, each in zip(states, parts, strict=True)
    ]


def _branches(state: SamplingState, timed_tokens: Tensor) -> tuple[Tensor, ...]:
    """Build the branches text and image, image alone, neither; without guidance the first alone.

    Args:
        timed_tokens: [B, 77, 768], of the B sources.
    Returns:
        Noisy latents, source, timesteps, tokens and, with HVCA, detail tokens of each branch.
    """
    noisy, source, tokens = state.noisy, state.source, timed_tokens[state.source_of]
    details = () if state.detail_tokens is None else (state.detail_tokens[state.source_of],)
    timesteps = state.timestep.expand(state.branches)
    if state.null_tokens is None:
        return noisy, source, timesteps, tokens, *details
    null_tokens = state.null_tokens.expand_as(tokens)
    null_details = details if state.null_detail is None else (state.null_detail[state.source_of],)
    return (
        torch.cat([noisy] * 3),
        torch.cat([source, source, torch.zeros_like(source)]),
        timesteps,
        torch.cat([tokens, null_tokens, null_tokens]),
        # v belongs to the image, so that the last branch has none.
        *(torch.cat([v, null_v, torch.zeros_like(v)]) for v, null_v in zip(details, null_details, strict=True)),
    )


def guided(predicted: Tensor, settings: PaintSettings) -> Tensor:
    """Combine predictions [3 N, C, h, w] of the branches text and image, image alone, neither; [N, C, h, w]."""
    full, image_only, unconditional = predicted.chunk(3)
    return (
        unconditional
        + settings.guidance_scale * (full - image_only)
        + settings.image_guidance_scale * (image_only - unconditional)
    )
