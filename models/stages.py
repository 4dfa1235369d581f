"""Training stages: trained parameters, components and losses of each.

| stage | data                     | trains                                     | losses                           |
|-------|--------------------------|--------------------------------------------|----------------------------------|
| 1     | captions                 | Q-Former, new tokens' rows                 | LM + MSE to CLIP's text states   |
| 2     | edits, segmentation, VQA | adapter, LoRA, new rows, Q-Former, UNet    | LM + noise, UNet reads e_t       |
| 3     | as stage 2               | LoRA, new rows, Q-Former, HVCA, TATI, UNet | LM + noise, UNet reads c_t and v |

The paper does not mention the rows of the new tokens; without them the LM loss of stage 1 would train nothing. Its
Table 1 counts one whole table of the LLM instead (see jobs/params.py).

Source: FireEdit (arXiv 2503.19839), supplement; SmartEdit (arXiv 2312.06739) where the paper leaves a choice open.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from diffusers.utils import BaseOutput
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from fireedit.models.draws import Draws
from fireedit.models.model import Conditions, FireEdit, Percepts
from fireedit.models.processor import Batch
from fireedit.models.qformer import query_diversity
from fireedit.models.schedule import ScheduleConfig, prediction_target, signal_to_noise, training_noise
from fireedit.models.text import text_states
from fireedit.models.vae import Codec, encode_pixels, source_latents, target_latents

Probability = Annotated[float, Field(ge=0, le=1)]
UNCHANGED = 0.1
"""Fraction of the mean square of a sample's latents below which a difference counts as noise."""
LORA, NEW_ROWS, QFORMER = r"vlm\.llm\..*\.lora_[AB]\.", r"vlm\.new_(embeddings|head)\.", r"qformer\."
Idea = Literal["regions", "tati", "hvca"]
"""Contribution of the paper that an ablation can leave out."""
PARTS_OF: dict[Idea, Sequence[str]] = {"regions": ("detector", "region_encoder"), "tati": ("tati",), "hvca": ("hvca",)}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Parameters and components of one training stage."""

    number: int
    trains: tuple[str, ...]
    """Regular expressions that match the start of FireEdit's parameter names."""
    parts: tuple[str, ...]
    """Components of FireEdit that the losses run; the others need not be on the device."""

    def learns(self, name: str) -> bool:
        """Return true if this stage trains the parameter of FireEdit called `name`."""
        if ".image_attention." in name and "hvca" not in self.parts:  # it has no input
            return False
        return any(re.match(pattern, name) for pattern in self.trains)

    def without(self, ideas: Sequence[Idea]) -> "Stage":
        """Return this stage for an ablation."""
        omitted = {part for idea in ideas for part in PARTS_OF[idea]}
        return replace(self, parts=tuple(part for part in self.parts if part not in omitted))


EDITING = ("vision", "detector", "region_encoder", "vlm", "qformer", "unet", "vae", "text_encoder")
STAGES = {
    1: Stage(number=1, trains=(QFORMER, NEW_ROWS), parts=("vlm", "qformer", "text_encoder")),
    2: Stage(number=2, trains=(r"vlm\.adapter\.", LORA, NEW_ROWS, QFORMER, r"unet\."), parts=EDITING),
    3: Stage(
        number=3,
        trains=(LORA, NEW_ROWS, QFORMER, r"hvca\.", r"tati\.", r"unet\."),
        parts=(*EDITING, "hvca", "tati"),
    ),
}


@dataclass(frozen=True, kw_only=True)
class DropoutConfig:
    """Condition dropout of training, for classifier-free guidance by text and image."""

    text: Probability = 0.05
    """Probability that only the text is dropped."""
    image: Probability = 0.05
    """Probability that only the image is dropped."""
    both: Probability = 0.05
    """Probability that text and image are dropped."""

    def __post_init__(self) -> None:
        if (total := self.text + self.image + self.both) > 1:
            raise ValueError(f"found text, image and both that sum to {total:g}; write shares of at most 1 together")

    def masks(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Choose the samples to drop text and image from, bool [B] each, by uniform numbers [B] in [0, 1)."""
        drop_image = (uniform >= self.text) & (uniform < self.text + self.both + self.image)
        return uniform < self.text + self.both, drop_image


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Weights of the losses of stages 2 and 3; the defaults are the paper's plain losses."""

    changed_weight: NonNegativeFloat = 0.0
    """Extra weight of the latent cells that an edit changes; see `change_weights`."""
    copy_floor: PositiveFloat | None = None
    """Each sample's loss is divided by the loss of a copy of its source plus this, so that small and large edits have
    equal weight; None: the paper's plain mean."""
    snr_cap: PositiveFloat | None = None
    """Maximum of the factor (1 + sqrt(SNR))^2 on a sample's loss, for a schedule that predicts clean latents."""
    pure_noise: Probability = 0.0
    """Fraction of samples at the last timestep; the others' timesteps are uniform."""
    denoise_weight: NonNegativeFloat = 1.0
    """Weight of the denoising loss. At 0 the UNet neither runs nor trains, which is several times cheaper: edit tokens
    are then trained by `align_weight` alone."""
    align_weight: NonNegativeFloat = 0.0
    """Weight of the MSE of edit tokens to CLIP text states of the instruction: a UNet pretrained on CLIP text states
    then follows edit tokens before it is trained on them."""


@dataclass
class Losses(BaseOutput):
    """Losses of one batch; the paper has two in each stage, weighted 1 : 1.

    Each is the mean of its samples' own means, so that a step's gradient does not depend on its split into batches.
    It is a dictionary too: DeepSpeed looks for a module's outputs there.
    """

    total: Tensor
    """Trained loss: weighted sum of the others but `diversity`."""
    img: Tensor
    """L_VLM: cross entropy of the [IMG] tokens and of answers."""
    diversity: Tensor
    """`query_diversity` of the edit tokens; logged, not trained."""
    each: Tensor
    """float32 [B], detached: total of each sample, for logs; `total` is their mean."""
    align: Tensor | None = None
    """MSE of the edit tokens to CLIP text states, of captions in stage 1, of instructions in stages 2 and 3."""
    denoise: Tensor | None = None
    """L_diff of stages 2 and 3: MSE of the predicted noise (or velocity, or clean latents)."""

    @classmethod
    def begin(cls, img_errors: Tensor, edit_tokens: Tensor, made: Tensor | None = None) -> "Losses":
        """Build losses of the VLM alone from those of each sample [B].

        Args:
            made: bool [B], samples whose edit tokens count in the diversity; all if None, or if it is all False.
        """
        img, each = img_errors.mean(), query_diversity(edit_tokens.detach())
        made = torch.ones_like(each) if made is None else torch.where(made.any(), made, True)
        return cls(total=img, img=img, diversity=(each * made).sum() / made.sum(), each=img_errors.detach())

    def plus(self, name: str, errors: Tensor, weight: float = 1.0) -> "Losses":
        """Return these losses and the mean of the samples' errors [B], dialogue included, as the field `name`."""
        mean: Any = errors.mean()
        total, each = self.total + weight * mean, self.each + weight * errors.detach()
        return replace(self, total=total, each=each, **{name: mean})

    def named(self) -> Iterator[tuple[str, Tensor]]:
        """Yield names and detached values for logs, the total first."""
        named = {"loss": self.total, "img": self.img, "align": self.align, "denoise": self.denoise}
        yield from ((name, value.detach()) for name, value in named.items() if value is not None)
        yield "diversity", self.diversity.detach()


class StagedFireEdit(nn.Module):
    """FireEdit in one training stage: `forward` computes the stage's losses, only the stage's parameters are trainable.

    Args:
        model: with all components that the stage names; others are not used and may be None.
    """

    def __init__(
        self,
        model: FireEdit,
        stage: Stage,
        schedule: ScheduleConfig | None = None,
        dropout: DropoutConfig | None = None,
        objective: ObjectiveConfig | None = None,
    ):
        super().__init__()
        self.model, self.stage = model, stage
        self.noise_schedule = training_noise(schedule or ScheduleConfig())
        self.dropout = dropout or DropoutConfig()
        self.objective = objective or ObjectiveConfig()
        for name, parameter in model.named_parameters():
            denoises = name.startswith(("unet.", "tati.", "hvca."))
            parameter.requires_grad_(stage.learns(name) and not (denoises and self.objective.denoise_weight == 0))
        self.train()

    def train(self, mode: bool = True) -> "StagedFireEdit":
        """Set the training mode of trained components; frozen ones stay in eval mode, free of dropout."""
        super().train(mode)
        for part in self.model.children():
            part.train(mode and any(parameter.requires_grad for parameter in part.parameters()))
        return self

    @property
    def exact(self) -> tuple[nn.Module, ...]:
        """Frozen components that stay in float32: rounding would swap the ranks of the detector's queries."""
        return () if self.model.detector is None else (self.model.detector,)

    def forward(self, batch: Batch) -> Losses:
        """Compute the stage's losses; those of stage 1 are of captions against their CLIP text states."""
        if self.stage.number > 1:
            return self._edit(batch)
        edit_tokens, output = self.model.understand(None, batch.input_ids, batch.labels)
        losses = Losses.begin(output.losses, edit_tokens)
        return losses.plus("align", self._text_errors(edit_tokens, batch))

    def _edit(self, batch: Batch) -> Losses:
        """Compute the losses of stages 2 and 3; dialogue has no target and no [IMG] states."""
        percepts = self.model.perceive(batch.view)
        edit_tokens, output = self.model.understand(percepts, batch.input_ids, batch.labels)

        losses = Losses.begin(output.losses, edit_tokens, made=batch.is_edit)
        if (weight := self.objective.denoise_weight) > 0:
            losses = losses.plus("denoise", self._denoise(batch, percepts, edit_tokens) * batch.is_edit, weight)
        if (weight := self.objective.align_weight) > 0:
            losses = losses.plus("align", self._text_errors(edit_tokens, batch) * batch.is_edit, weight)
        return losses

    def _denoise(self, batch: Batch, percepts: Percepts, edit_tokens: Tensor) -> Tensor:
        """Noise the targets and predict; returns each sample's error, float32 [B]."""
        model, schedule = self.model, self.noise_schedule
        with torch.no_grad():
            source = source_latents(moments_of(model.vae, batch.source_pixels, batch.source_moments))
            draws = Draws.of_seeds(seeds_of(batch), source.shape[1:]).to(source.device)
            target_moments = moments_of(model.vae, batch.target_pixels, batch.target_moments)
            clean = target_latents(model.vae, target_moments, draws.target_noise)
            null_tokens = text_states(model.text_encoder, batch.null_text_ids).to(edit_tokens.dtype)
        timesteps = choose_timesteps(schedule, self.objective, draws.uniform[:, :2])
        noisy = schedule.add_noise(clean, draws.noise, timesteps)

        drop_text, drop_image = self.dropout.masks(draws.uniform[:, 2])
        timed_tokens = replaced(model.condition(edit_tokens, timesteps).timed_tokens, drop_text, null_tokens)
        read_tokens = replaced(edit_tokens, drop_text, null_tokens) if model.null_detail else edit_tokens
        detail_tokens = model.gather_detail(read_tokens, percepts)
        if detail_tokens is not None:
            detail_tokens = replaced(detail_tokens, drop_image, 0.0)
        conditions = Conditions(timed_tokens, detail_tokens)

        predicted = model.predict(noisy, replaced(source, drop_image, 0.0), timesteps, conditions)
        target = prediction_target(schedule, clean, draws.noise, timesteps)
        snr, copy = signal_to_noise(schedule, timesteps), source * model.vae.config.scaling_factor
        return edit_errors(predicted, target, copy, clean, snr, self.objective)

    def _text_errors(self, edit_tokens: Tensor, batch: Batch) -> Tensor:
        """Compute the MSE of edit tokens [B, 77, W] to the CLIP text states of each sample's text, float32 [B]."""
        with torch.no_grad():
            stored = batch.text_states
            target = text_states(self.model.text_encoder, batch.text_ids) if stored is None else stored
        return F.mse_loss(edit_tokens.float(), target.float(), reduction="none").flatten(1).mean(dim=1)


def seeds_of(batch: Batch) -> Tensor:
    """Return the batch's seeds, int64 [B], or draw some."""
    return torch.randint(2**63 - 1, (len(batch.ids),)) if batch.seeds is None else batch.seeds


def replaced(values: Tensor, mask: Tensor, by: Tensor | float) -> Tensor:
    """Replace the samples of `values` [B, ...] that the mask [B] selects."""
    return torch.where(mask.view(-1, *[1] * (values.ndim - 1)), by, values)


def moments_of(vae: Codec, pixels: Tensor | None, stored: Tensor | None) -> Tensor:
    """Return the stored moments of an encoded batch, or encode its pixels."""
    if stored is not None:
        return stored
    assert pixels is not None, "a batch of captions has no images; stages 2 and 3 train on edits"
    return encode_pixels(vae, pixels)


def choose_timesteps(schedule: DDPMScheduler, objective: ObjectiveConfig, uniform: Tensor) -> Tensor:
    """Choose whole timesteps [B] to train at: uniform, except for the fraction `objective.pure_noise`.

    Args:
        uniform: [B, 2], numbers in [0, 1).
    """
    last = schedule.config.num_train_timesteps - 1
    timesteps = (uniform[:, 0] * (last + 1)).long().clamp(max=last)
    return torch.where(uniform[:, 1] < objective.pure_noise, last, timesteps)


def edit_errors(
    predicted: Tensor, target: Tensor, source: Tensor, clean: Tensor, snr: Tensor, objective: ObjectiveConfig
) -> Tensor:
    """Compute each sample's squared error, weighted by the objective; float32 [B].

    Args:
        predicted, target: [B, C, h, w], output of the UNet and its regression target.
        source, clean: [B, C, h, w], scaled latents of the images before and after the edit.
        snr: [B], signal-to-noise ratio of the UNet's input.
    """
    weights = change_weights(source, clean, objective.changed_weight)
    errors = (weights * (predicted.float() - target.float()).square()).mean(dim=(1, 2, 3))
    if objective.copy_floor is not None:
        copy_error = (weights * (source.float() - clean.float()).square()).mean(dim=(1, 2, 3))
        errors = errors / (copy_error + objective.copy_floor)
    if objective.snr_cap is not None:
        errors = errors * (1 + snr.sqrt()).square().clamp(max=objective.snr_cap)
    return errors


@torch.no_grad()
def change_weights(source: Tensor, target: Tensor, weight: float) -> Tensor:
    """Compute loss weights of latent cells: the cells that an edit changes most weigh `1 + weight` times the unchanged.

    Args:
        source, target: [B, C, h, w] latents of one scale.
    Returns:
        float32 [B, 1, h, w] with a mean of 1 in each sample; all 1 for an edit that changes nothing.
    """
    distance = (target - source).float().square().mean(dim=1, keepdim=True)
    least = UNCHANGED * target.float().square().mean(dim=(1, 2, 3), keepdim=True)
    weights = 1 + weight * distance / distance.amax(dim=(2, 3), keepdim=True).clamp_min(least)
    return weights / weights.mean(dim=(2, 3), keepdim=True)
