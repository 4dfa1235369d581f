"""The noise: how training adds it and how painting takes it away."""

from dataclasses import asdict, dataclass
from typing import Literal

from diffusers import DDIMScheduler, DDPMScheduler, EulerAncestralDiscreteScheduler
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: str = "scaled_linear"
    prediction_type: Literal["epsilon", "v_prediction", "sample"] = "epsilon"
    """What the UNet says of noisy latents: the noise, as SD 1.5, the velocity of Salimans and Ho (arXiv 2202.00512), or
    the clean latents themselves."""
    rescale_betas_zero_snr: bool = False
    """Whether nothing is left of the picture at the last timestep. Source: Lin et al. (arXiv 2305.08891), whose spacing
    "trailing" then also starts sampling there."""
    sampler: Literal["euler_ancestral", "ddim"] = "euler_ancestral"
    """How noise is taken away: as the paper does, or without adding new noise (DDIM, arXiv 2010.02502)."""
    timestep_spacing: Literal["linspace", "leading", "trailing"] = "linspace"
    """Sampling only."""
    steps_offset: int = 1
    """Sampling only, as InstructPix2Pix's published scheduler."""


def training_noise(config: ScheduleConfig) -> DDPMScheduler:
    """Adds noise to target latents at whole timesteps."""
    known = asdict(config)
    known.pop("sampler")
    return DDPMScheduler(**known)


def wanted_prediction(schedule: DDPMScheduler, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """What the UNet should say of `clean` latents [B, C, h, w] with as much `noise` as at `timesteps` [B]."""
    match schedule.config.prediction_type:
        case "v_prediction":
            return schedule.get_velocity(clean, noise, timesteps)
        case "sample":
            return clean
    return noise


def signal_to_noise(schedule: DDPMScheduler, timesteps: Tensor) -> Tensor:
    """Ratio of the variances of picture and noise at `timesteps` [B]."""
    signal = schedule.alphas_cumprod.to(timesteps.device)[timesteps]
    return signal / (1 - signal)


def sampler(config: ScheduleConfig) -> EulerAncestralDiscreteScheduler | DDIMScheduler:
    """Takes the noise away; the timesteps of the paper's are fractional."""
    known = asdict(config)
    if known.pop("sampler") == "ddim":
        return DDIMScheduler(**known, clip_sample=False)
    return EulerAncestralDiscreteScheduler(**known)
