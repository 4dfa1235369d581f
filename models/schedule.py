"""The noise: how training adds it and how sampling takes it away."""

from dataclasses import asdict, dataclass

from diffusers import DDPMScheduler, EulerAncestralDiscreteScheduler


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: str = "scaled_linear"
    steps_offset: int = 1
    """Sampling only, as InstructPix2Pix's published scheduler."""


def training_noise(config: ScheduleConfig) -> DDPMScheduler:
    """Adds noise to target latents at whole timesteps."""
    return DDPMScheduler(**asdict(config))


def sampler(config: ScheduleConfig) -> EulerAncestralDiscreteScheduler:
    """The paper's sampler; its timesteps are fractional."""
    return EulerAncestralDiscreteScheduler(**asdict(config))
