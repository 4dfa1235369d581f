"""The three stages: what each one trains, on which parts, and with which losses.

| stage | data                     | learns                                     | losses                           |
|-------|--------------------------|--------------------------------------------|----------------------------------|
| 1     | captions                 | Q-Former, new tokens' rows                 | LM + MSE to CLIP's text states   |
| 2     | edits, segmentation, VQA | adapter, LoRA, new rows, Q-Former, UNet    | LM + noise, UNet reads e_t       |
| 3     | as stage 2               | LoRA, new rows, Q-Former, HVCA, TATI, UNet | LM + noise, UNet reads c_t and v |

The paper names no rows of the new tokens; without them the LM loss of stage 1 would have nothing to train. Its Table 1
counts one whole table of the LLM instead (see jobs/params.py).

Source: FireEdit (arXiv 2503.19839), supplement; SmartEdit (arXiv 2312.06739) for what the paper leaves open.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from fireedit.models.model import FireEdit, Percepts
from fireedit.models.processor import Batch
from fireedit.models.qformer import query_diversity
from fireedit.models.schedule import ScheduleConfig, signal_to_noise, training_noise, wanted_prediction
from fireedit.models.text import text_states
from fireedit.models.vae import source_latents, target_latents

UNCHANGED = 0.1
"""Of the latents' mean square: what differs by less is noise."""
LORA, NEW_ROWS, QFORMER = r"vlm\.llm\..*\.lora_[AB]\.", r"vlm\.new_(embeddings|head)\.", r"qformer\."
Idea = Literal["regions", "tati", "hvca"]
"""What the paper adds to its base, and an ablation leaves out."""
PARTS_OF: dict[Idea, tuple[str, ...]] = {
    "regions": ("detector", "region_encoder"),
    "tati": ("tati",),
    "hvca": ("hvca",),
}


@dataclass(frozen=True, kw_only=True)
class Stage:
    number: int
    trains: tuple[str, ...]
    """Regular expressions on the beginnings of FireEdit's parameter names."""
    parts: tuple[str, ...]
    """FireEdit's parts that its losses run; the others need not be on the device."""

    def learns(self, name: str) -> bool:
        """Whether this stage trains the parameter of FireEdit called `name`."""
        if "_ip." in name and "hvca" not in self.parts:  # the UNet's image attention has nothing to read
            return False
        return any(re.match(pattern, name) for pattern in self.trains)

    def without(self, ideas: Sequence[Idea]) -> "Stage":
        """This stage of an ablation."""
        left_out = {part for idea in ideas for part in PARTS_OF[idea]}
        return replace(self, parts=tuple(part for part in self.parts if part not in left_out))


EDITING = ("vision", "detector", "region_encoder", "vlm", "qformer", "unet", "vae", "text_encoder")
STAGES = {
    1: Stage(number=1, trains=(QFORMER, NEW_ROWS), parts=("vlm", "qformer", "text_encoder")),
    2: Stage(
        number=2,
        trains=(r"vlm\.adapter\.", LORA, NEW_ROWS, QFORMER, r"unet\."),
        parts=EDITING,
    ),
    3: Stage(
        number=3,
        trains=(LORA, NEW_ROWS, QFORMER, r"hvca\.", r"tati\.", r"unet\."),
        parts=(*EDITING, "hvca", "tati"),
    ),
}


@dataclass(frozen=True, kw_only=True)
class DropoutConfig:
    """How often a training sample loses a condition, so that sampling can be guided by each."""

    text: float = 0.05
    image: float = 0.05
    both: float = 0.05

    def draw(self, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Which samples lose their text and which their picture, bool [B] each: one draw decides both."""
        draw = torch.rand(count, device=device)
        drop_image = (draw >= self.text) & (draw < self.text + self.both + self.image)
        return draw < self.text + self.both, drop_image


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What the losses of stages 2 and 3 ask for beyond the paper's; as it stands, nothing."""

    changed_weight: NonNegativeFloat = 0.0
    """How much more the cells of a picture count that its edit changes; see `change_weights`."""
    copy_floor: PositiveFloat | None = None
    """Divides every sample's loss by what a copy of its source would cost plus this, so that small and large edits
    count alike; None: the paper's plain mean."""
    snr_cap: PositiveFloat | None = None
    """For a schedule that predicts clean latents: multiplies a sample's loss by (1 + sqrt(SNR))^2, at most by this."""
    pure_noise: NonNegativeFloat = 0.0
    """Share of samples that are drawn at the last timestep; the others are uniform."""
    denoise_weight: NonNegativeFloat = 1.0
    """What the painter's loss counts; at 0 the painter neither runs nor learns, and what is left is several times
    cheaper: edit tokens that `align_weight` holds to the states that the painter reads already."""
    align_weight: NonNegativeFloat = 0.0
    """What the distance of edit tokens to CLIP's states of the instruction counts: a UNet that reads those states then
    understands an instruction beside a picture before it has learnt to read edit tokens."""


@dataclass(frozen=True)
class Losses:
    """One step's losses, each a mean over its batch; the paper has two in each stage, weighted 1 : 1."""

    img: Tensor
    """Cross entropy of the [IMG] tokens and of answers: L_VLM."""
    diversity: Tensor
    """Not a loss: 0 says that the edit tokens have collapsed into one."""
    each: Tensor
    """float32 [B], detached: every sample's own total, for logs. `img` is a mean over tokens, so that `total` is the
    mean of these only where all samples have as many labelled tokens."""
    align: Tensor | None = None
    """Squared distance of the edit tokens to CLIP's text states: of captions in stage 1, of instructions later."""
    align_weight: float = 1.0
    denoise_weight: float = 1.0
    denoise: Tensor | None = None
    """Stages 2 and 3: squared distance of the predicted noise (or velocity) to the real one: L_diff."""

    @property
    def total(self) -> Tensor:
        total = self.img
        if self.align is not None:
            total = total + self.align_weight * self.align
        return total if self.denoise is None else total + self.denoise_weight * self.denoise

    def named(self) -> Iterator[tuple[str, Tensor]]:
        """What to log: the total first, then what this stage has."""
        named = {"loss": self.total, "img": self.img, "align": self.align, "denoise": self.denoise}
        yield from ((name, value.detach()) for name, value in named.items() if value is not None)
        yield "diversity", self.diversity.detach()


class StagedFireEdit(nn.Module):
    """FireEdit as one stage trains it: its `forward` is that stage's losses, its trainable parameters are the stage's.

    Args:
        model: all parts that the stage names; others are left untouched and need not be there.
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
            paints = name.startswith(("unet.", "tati.", "hvca."))
            parameter.requires_grad_(stage.learns(name) and not (paints and self.objective.denoise_weight == 0))
        self.train()

    def train(self, mode: bool = True) -> "StagedFireEdit":
        """Frozen parts stay in eval mode: no dropout acts where nothing learns."""
        super().train(mode)
        for part in self.model.children():
            part.train(mode and any(parameter.requires_grad for parameter in part.parameters()))
        return self

    @property
    def exact(self) -> tuple[nn.Module, ...]:
        """Frozen parts that stay in float32: the detector's queries go by the rank of scores, which rounding swaps."""
        return () if self.model.detector is None else (self.model.detector,)

    def forward(self, batch: Batch) -> Losses:
        return self._align(batch) if self.stage.number == 1 else self._edit(batch)

    def _align(self, batch: Batch) -> Losses:
        """Stage 1: the edit tokens of a caption become what CLIP's text encoder makes of it."""
        understood = self.model.vlm(batch.input_ids, batch.labels)
        edit_tokens = self.model.qformer(understood.img_states)
        align = self._distance_to_text(edit_tokens, batch)
        return Losses(
            img=understood.loss,
            align=align.mean(),
            diversity=query_diversity(edit_tokens),
            each=understood.losses + align.detach(),
        )

    def _edit(self, batch: Batch) -> Losses:
        """Stages 2 and 3: look, understand, and paint; dialogue has no target."""
        model = self.model
        percepts = model.perceive(batch.view, detail=model.hvca is not None)
        understood = model.vlm(batch.input_ids, batch.labels, percepts.image_tokens, percepts.region_tokens)
        edit_tokens = model.qformer(understood.img_states)

        answered = edit_tokens[batch.is_edit] if batch.is_edit.any() else edit_tokens  # dialogue has no [IMG] states
        losses = Losses(img=understood.loss, diversity=query_diversity(answered), each=understood.losses)
        if (weight := self.objective.denoise_weight) > 0:
            errors = self._denoise(batch, percepts, edit_tokens) * batch.is_edit
            each = losses.each + weight * errors.detach()
            losses = replace(losses, denoise=errors.mean(), denoise_weight=weight, each=each)  # over dialogue too
        if (weight := self.objective.align_weight) > 0:
            align = self._distance_to_text(edit_tokens, batch) * batch.is_edit
            each = losses.each + weight * align.detach()
            losses = replace(losses, align=align.mean(), align_weight=weight, each=each)
        return losses

    def _denoise(self, batch: Batch, percepts: Percepts, edit_tokens: Tensor) -> Tensor:
        """Predict the noise in the targets, or what the schedule calls for; each sample's error, float32 [B]."""
        model = self.model
        with torch.no_grad():
            source, clean = source_latents(model.vae, batch.source), target_latents(model.vae, batch.target)
            null_tokens = text_states(model.text_encoder, batch.null_text_ids)
        noise = torch.randn(clean.shape, dtype=clean.dtype, device=clean.device)  # not _like: it fills by strides
        timesteps = draw_timesteps(self.noise_schedule, self.objective, len(clean), clean.device)
        noisy = self.noise_schedule.add_noise(clean, noise, timesteps)

        drop_text, drop_image = self.dropout.draw(len(clean), clean.device)
        tokens, detail_tokens = edit_tokens, None
        if model.tati is not None:
            tokens = model.tati(edit_tokens, timesteps)
        if model.hvca is not None:
            detail_tokens = model.hvca(percepts.detail, edit_tokens)
            detail_tokens = torch.where(drop_image[:, None, None], 0.0, detail_tokens)
        tokens = torch.where(drop_text[:, None, None], null_tokens.to(tokens.dtype), tokens)
        shown = torch.where(drop_image[:, None, None, None], 0.0, source)

        predicted = model.unet.predict(noisy, shown, timesteps, tokens, detail_tokens)
        wanted = wanted_prediction(self.noise_schedule, clean, noise, timesteps)
        snr, copy = signal_to_noise(self.noise_schedule, timesteps), source * model.vae.config.scaling_factor
        return edit_errors(predicted, wanted, copy, clean, snr, self.objective)

    def _distance_to_text(self, edit_tokens: Tensor, batch: Batch) -> Tensor:
        """Mean squared distance of edit tokens [B, 77, W] to CLIP's states of the samples' own texts, float32 [B]."""
        with torch.no_grad():
            stored = batch.text_states
            wanted = text_states(self.model.text_encoder, batch.text_ids) if stored is None else stored
        return _own_means(edit_tokens.float(), wanted.float())


def draw_timesteps(schedule: DDPMScheduler, objective: ObjectiveConfig, count: int, device: torch.device) -> Tensor:
    """Whole timesteps [count] to train at: uniform, but for the share that is pure noise."""
    last = schedule.config.num_train_timesteps - 1
    timesteps = torch.randint(0, last + 1, (count,), device=device)
    if objective.pure_noise == 0:
        return timesteps
    return torch.where(torch.rand(count, device=device) < objective.pure_noise, last, timesteps)


def edit_errors(
    predicted: Tensor, wanted: Tensor, source: Tensor, clean: Tensor, snr: Tensor, objective: ObjectiveConfig
) -> Tensor:
    """Each sample's squared error, weighted as the objective says; float32 [B].

    Args:
        predicted, wanted: [B, C, h, w], what the UNet said and what it should have said.
        source, clean: [B, C, h, w], scaled latents of the pictures before and after the edit.
        snr: [B], of the noisy latents that the UNet saw.
    """
    weights = change_weights(source, clean, objective.changed_weight)
    errors = (weights * (predicted.float() - wanted.float()).square()).mean(dim=(1, 2, 3))
    if objective.copy_floor is not None:
        copied = (weights * (source.float() - clean.float()).square()).mean(dim=(1, 2, 3))
        errors = errors / (copied + objective.copy_floor)
    if objective.snr_cap is not None:
        errors = errors * (1 + snr.sqrt()).square().clamp(max=objective.snr_cap)
    return errors


@torch.no_grad()
def change_weights(source: Tensor, target: Tensor, weight: float) -> Tensor:
    """How much each cell of a picture counts in the loss: those that the edit changes most `1 + weight` times others.

    Args:
        source, target: [B, C, h, w] latents of one scale.
    Returns:
        float32 [B, 1, h, w] with a mean of 1 in each sample; all 1 where an edit changes nothing.
    """
    distance = (target - source).float().square().mean(dim=1, keepdim=True)
    least = UNCHANGED * target.float().square().mean()
    weights = 1 + weight * distance / distance.amax(dim=(2, 3), keepdim=True).clamp_min(least)
    return weights / weights.mean(dim=(2, 3), keepdim=True)


def _own_means(made: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared distance of each sample, [B, ...] to [B]."""
    return F.mse_loss(made, wanted, reduction="none").flatten(1).mean(dim=1)
