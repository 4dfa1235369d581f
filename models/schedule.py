"""The noise: how training adds it and how sampling takes it away."""

from dataclasses import asdict, dataclass
from typing import Literal

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
