"""Sampling: the state of edits between two denoising steps, and classifier-free guidance by text and image."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fireedit.models.deep_features import DeepFeatures
from fireedit.models.model import Conditions, FireEdit
from fireedit.models.sampler import Generators, Sampler, take_step
from fireedit.models.settings import PaintSettings
from fireedit.models.unet import EditUNet, KeysValues


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
    guided_steps: Sequence[bool]
    """Truth of guidance in each step."""
    reuse_every: int = 1
    """Steps for which the UNet's deep features serve; 1 computes them in each."""
    projected: "Projected | None" = None
    """Keys and values that no step changes; None computes them in each."""
    step: int = 0
    """Number of steps done."""
    clean: Tensor | None = None
    """float32 [N, C, h, w], clean latents as predicted at the last step; None before the first one, or if the sampler
    does not tell them."""
    deep: Tensor | None = field(default=None, repr=False)
    """[branches, C, h, w], features of the UNet that the next steps may reuse."""

    @property
    def timestep(self) -> Tensor:
        """Timestep of the next denoising step, a scalar."""
        return self.scheduler.timesteps[self.step]

    @property
    def steps_left(self) -> int:
        return len(self.scheduler.timesteps) - self.step

    @property
    def guided(self) -> bool:
        """Truth of guidance in the next step."""
        return self.null_tokens is not None and self.guided_steps[self.step]

    @property
    def branches(self) -> int:
        """Samples of this state in the next forward of the UNet."""
        return len(self.latents) * (3 if self.guided else 1)

    @property
    def branches_left(self) -> int:
        """Samples of this state in all forwards of the UNet to come."""
        guided = 0 if self.null_tokens is None else sum(self.guided_steps[self.step :])
        return len(self.latents) * (self.steps_left + 2 * guided)

    @property
    def reuses(self) -> bool:
        """True if the next step reads the deep features of an earlier one, of as many branches."""
        return self.step % self.reuse_every > 0 and self.deep is not None and len(self.deep) == self.branches

    @property
    def noisy(self) -> Tensor:
        """Latents as the UNet reads them, float32 [N, C, h, w]."""
        return self.scheduler.scale_model_input(self.latents, self.timestep)

    @property
    def branch_detail(self) -> Tensor | None:
        """Detail tokens of each branch, [3 N, 16, 768], or [N, 16, 768] without guidance; None without HVCA."""
        if self.detail_tokens is None:
            return None
        detail = self.detail_tokens[self.source_of]
        if self.null_tokens is None:
            return detail
        null_detail = detail if self.null_detail is None else self.null_detail[self.source_of]
        return torch.cat([detail, null_detail, torch.zeros_like(detail)])  # v belongs to the image: the last has none

    def advance(self, predicted: Tensor) -> None:
        """Take the sampler's next step with the UNet's prediction, float32 [N, C, h, w]."""
        output = take_step(self.scheduler, predicted, self.timestep, self.latents, self.generators)
        self.latents, self.clean = output.prev_sample, getattr(output, "pred_original_sample", None)
        self.step += 1


@dataclass(frozen=True)
class Projected:
    """Keys and values in the UNet's attentions that no denoising step changes."""

    null: KeysValues | None
    """Pairs of the null tokens, [1, 77, W_i], which two branches share; None without guidance."""
    detail: KeysValues | None
    """Pairs of the detail tokens of each branch, [3 N or N, 16, W_i]; None without HVCA."""

    @classmethod
    def of(cls, unet: EditUNet, state: SamplingState) -> "Projected":
        """Compute them for a state that has not begun."""
        null = None if state.null_tokens is None else unet.project_tokens(state.null_tokens)
        detail = state.branch_detail
        return cls(null, None if detail is None else unet.project_detail(detail))


def predict_guided(model: FireEdit, states: Sequence[SamplingState]) -> list[Tensor]:
    """Predict for states at timesteps of their own, float32 [N_i, C, h, w] each, guided by text and image.

    All share one forward, but for those that reuse deep features, which share another.

    Source: InstructPix2Pix (arXiv 2211.09800), equation 3.
    """
    predicted: dict[int, Tensor] = {}
    for reuses in (False, True):
        places = [place for place, state in enumerate(states) if state.reuses == reuses]
        if places:
            predicted |= zip(places, _predict(model, [states[place] for place in places]), strict=True)
    return [predicted[place] for place in range(len(states))]


def _predict(model: FireEdit, states: Sequence[SamplingState]) -> list[Tensor]:
    """Predict for states that all reuse features, or all do not, in one forward."""
    counts = [len(state.edit_tokens) for state in states]
    edit_tokens = torch.cat([state.edit_tokens for state in states])
    timesteps = torch.cat([state.timestep.expand(count) for state, count in zip(states, counts, strict=True)])
    timed_tokens = model.condition(edit_tokens, timesteps).timed_tokens
    branches = [_branches(*each) for each in zip(states, timed_tokens.split(counts), strict=True)]
    noisy, source, timesteps, tokens = map(torch.cat, zip(*branches, strict=True))
    sizes = [state.branches for state in states]
    details = [detail for state in states if (detail := state.branch_detail) is not None]
    detail_tokens = _join(details, sizes) if details else None
    conditions = Conditions(tokens, detail_tokens, _project(model, states, timed_tokens))
    deep = None
    if any(state.reuse_every > 1 for state in states):
        kept = [state.deep for state in states if state.reuses and state.deep is not None]
        deep = DeepFeatures(torch.cat(kept) if kept else None)
    parts = model.predict(noisy, source, timesteps, conditions, deep).split(sizes)
    if deep is not None and deep.features is not None:
        for state, features in zip(states, deep.features.split(sizes), strict=True):
            state.deep = features
    return [guided(each, state.settings) if state.guided else each for state, each in zip(states, parts, strict=True)]


def _branches(state: SamplingState, timed_tokens: Tensor) -> tuple[Tensor, ...]:
    """Build the branches text and image, image alone, neither; without guidance the first alone.

    Args:
        timed_tokens: [B, 77, 768], of the B sources.
    Returns:
        Noisy latents, source, timesteps and tokens of each branch.
    """
    noisy, source, tokens = state.noisy, state.source, timed_tokens[state.source_of]
    timesteps = state.timestep.expand(state.branches)
    if state.null_tokens is None or not state.guided:
        return noisy, source, timesteps, tokens
    null_tokens = state.null_tokens.expand_as(tokens)
    return (
        torch.cat([noisy] * 3),
        torch.cat([source, source, torch.zeros_like(source)]),
        timesteps,
        torch.cat([tokens, null_tokens, null_tokens]),
    )


def _project(
    model: FireEdit, states: Sequence[SamplingState], timed_tokens: Tensor
) -> tuple[KeysValues, KeysValues | None] | None:
    """Put together keys and values of all branches: those of the timed tokens are computed once for each source.

    Args:
        timed_tokens: [sum of B, 77, 768].
    """
    kept = [state.projected for state in states if state.projected is not None]
    if len(kept) < len(states):
        return None
    nulls = [each.null for each, state in zip(kept, states, strict=True) if state.guided and each.null is not None]
    rows, first, null_row = list[Tensor](), 0, len(timed_tokens)
    for state in states:
        rows.append(first + state.source_of)
        first += len(state.edit_tokens)
        if state.guided:
            rows.append(torch.full_like(state.source_of, null_row).repeat(2))
            null_row += 1
    order = torch.cat(rows)
    texts = zip(model.unet.project_tokens(timed_tokens), *nulls, strict=True)
    text = [
        (_gather(keys, order), _gather(values, order)) for keys, values in (zip(*each, strict=True) for each in texts)
    ]
    if any(each.detail is None for each in kept):
        return text, None
    details = zip(*(each.detail for each in kept if each.detail is not None), strict=True)
    sizes = [state.branches for state in states]
    return text, [
        (_join(keys, sizes), _join(values, sizes)) for keys, values in (zip(*d, strict=True) for d in details)
    ]


def _gather(parts: Sequence[Tensor], order: Tensor) -> Tensor:
    """Concatenate, and choose a row for each branch."""
    return torch.cat(list(parts))[order]


def _join(parts: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """Concatenate the first rows of each: a step without guidance has the first branch alone."""
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def guided(predicted: Tensor, settings: PaintSettings) -> Tensor:
    """Combine predictions [3 N, C, h, w] of the branches text and image, image alone, neither; [N, C, h, w]."""
    full, image_only, unconditional = predicted.chunk(3)
    return (
        unconditional
        + settings.guidance_scale * (full - image_only)
        + settings.image_guidance_scale * (image_only - unconditional)
    )
