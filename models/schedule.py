"""Noise schedule: adding noise in training, removing it in sampling."""

from dataclasses import asdict, dataclass
from typing import Literal

from diffusers import DDIMScheduler, DDPMScheduler, EulerAncestralDiscreteScheduler
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Noise schedule of Stable Diffusion 1.5 and the paper's sampler."""

    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: str = "scaled_linear"
    prediction_type: Literal["epsilon", "v_prediction", "sample"] = "epsilon"
    """Prediction of the UNet: noise, as SD 1.5, velocity (Salimans and Ho, arXiv 2202.00512), or clean latents."""
    rescale_betas_zero_snr: bool = False
    """Rescaling to zero SNR at the last timestep. Source: Lin et al. (arXiv 2305.08891); with their timestep spacing
    "trailing", sampling also starts there."""
    sampler: Literal["euler_ancestral", "ddim"] = "euler_ancestral"
    """Sampler: the paper's, or DDIM (arXiv 2010.02502), which adds no new noise."""
    timestep_spacing: Literal["linspace", "leading", "trailing"] = "linspace"
    """Spacing of the sampler's timesteps; not used in training."""
    steps_offset: int = 1
    """Offset of the sampler's timesteps, as in InstructPix2Pix's published scheduler; not used in training."""


def training_noise(config: ScheduleConfig) -> DDPMScheduler:
    """Build the scheduler that adds noise to target latents at whole timesteps."""
    settings = asdict(config)
    settings.pop("sampler")
    return DDPMScheduler(**settings)


def prediction_target(schedule: DDPMScheduler, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """Return the regression target of the UNet for `clean` latents [B, C, h, w] noised at `timesteps` [B]."""
    if schedule.config.prediction_type == "v_prediction":
        return schedule.get_velocity(clean, noise, timesteps)
    return clean if schedule.config.prediction_type == "sample" else noise


def signal_to_noise(schedule: DDPMScheduler, timesteps: Tensor) -> Tensor:
    """Compute the ratio of the variances of image and noise at `timesteps` [B]."""
    signal = schedule.alphas_cumprod.to(timesteps.device)[timesteps]
    return signal / (1 - signal)


def sampler(config: ScheduleConfig) -> EulerAncestralDiscreteScheduler | DDIMScheduler:
    """Build the scheduler that removes noise; timesteps of the paper's are fractional."""
    settings = asdict(config)
    if settings.pop("sampler") == "ddim":
        return DDIMScheduler(**settings, clip_sample=False)
    return EulerAncestralDiscreteScheduler(**settings)
