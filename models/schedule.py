"""The noise: how training adds it and how painting takes it away."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self

from diffusers import DDPMScheduler, EulerAncestralDiscreteScheduler
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: str = "scaled_linear"
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    """What the UNet says of noisy latents: the noise, as SD 1.5, or the velocity of Salimans and Ho (arXiv 2202.00512),
    which also counts where there is little but noise, so that what is where is learnt sooner."""
    steps_offset: int = 1
    """Sampling only, as InstructPix2Pix's published scheduler."""


@dataclass(frozen=True, kw_only=True)
class PaintSettings:
    """How a picture is painted; edits that agree in these are painted together. Defaults: the paper's."""

    num_inference_steps: int = 100
    guidance_scale: float = 7.5
    """s_T: how strongly the instruction is followed."""
    image_guidance_scale: float = 1.5
    """s_I: how strongly the source is kept."""
    keep_below: float = 0.0
    """Cells of the latents, which have unit variance, that are painted nearer to the source than this mean square are
    drawn back to it; 0 leaves them as painted, as the paper."""
    negative_prompt: str = ""
    """What stands in for no instruction in the guidance; one text for all pictures."""

    def __post_init__(self) -> None:
        steps = self.num_inference_steps
        if not isinstance(steps, int) or not 1 <= steps <= 1000:
            raise ValueError(f"num_inference_steps is {steps!r}; write a whole number from 1 to 1000")
        for name in ("guidance_scale", "image_guidance_scale", "keep_below"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; write a number from 0")
        if not isinstance(self.negative_prompt, str):
            raise ValueError("negative_prompt is no text; write one text for all pictures")

    def but(self, **changes: Any) -> Self:
        """With those of the changes that are not None."""
        return replace(self, **{name: value for name, value in changes.items() if value is not None})


def training_noise(config: ScheduleConfig) -> DDPMScheduler:
    """Adds noise to target latents at whole timesteps."""
    return DDPMScheduler(**asdict(config))


def wanted_prediction(schedule: DDPMScheduler, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """What the UNet should say of `clean` latents [B, C, h, w] with as much `noise` as at `timesteps` [B]."""
    if schedule.config.prediction_type == "v_prediction":
        return schedule.get_velocity(clean, noise, timesteps)
    return noise


def sampler(config: ScheduleConfig) -> EulerAncestralDiscreteScheduler:
    """The paper's sampler; its timesteps are fractional."""
    return EulerAncestralDiscreteScheduler(**asdict(config))
