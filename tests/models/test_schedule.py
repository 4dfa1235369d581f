"""Training and sampling share one noise schedule, that of Stable Diffusion and InstructPix2Pix."""

from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler, EulerAncestralDiscreteScheduler

from fireedit.models.model import preset
from fireedit.models.schedule import ScheduleConfig, prediction_target, sampler, signal_to_noise, training_noise

NANO = preset("nano").schedule


def test_training_and_sampling_agree_on_the_noise() -> None:
    trained, sampled = training_noise(ScheduleConfig()), sampler(ScheduleConfig())
    assert torch.equal(trained.alphas_cumprod, sampled.alphas_cumprod)
    assert trained.config.prediction_type == sampled.config.prediction_type == "epsilon"


@pytest.mark.parametrize("config", [ScheduleConfig(), NANO], ids=["paper", "nano"])
def test_every_timestep_adds_its_noise_as_exactly_as_float32_can(config: ScheduleConfig) -> None:
    schedule = training_noise(replace(config, prediction_type="v_prediction"))
    clean, noise = torch.randn(2, 1000, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    timesteps = torch.arange(1000)
    betas = torch.linspace(config.beta_start**0.5, config.beta_end**0.5, 1000, dtype=torch.float64) ** 2
    signal = (1 - betas).cumprod(dim=0).sqrt()
    if config.rescale_betas_zero_snr:
        signal = (signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])
    signal, deviation = signal[:, None, None, None], (1 - signal.square()).sqrt()[:, None, None, None]
    for found, expected in (
        (schedule.add_noise(clean, noise, timesteps), signal * clean + deviation * noise),
        (prediction_target(schedule, clean, noise, timesteps), signal * noise - deviation * clean),
    ):
        errors = (found - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
        assert found.dtype == torch.float32 and errors.max() < 1e-5


def test_a_velocity_schedule_trains_and_samples_velocities() -> None:
    config = ScheduleConfig(prediction_type="v_prediction")
    schedule, clean, noise = training_noise(config), torch.ones(2, 4, 2, 2), torch.full((2, 4, 2, 2), 3.0)
    expected = prediction_target(schedule, clean, noise, torch.tensor([0, 999]))[:, 0, 0, 0]
    assert expected[0] > 2.8 and -1 < expected[1] < -0.7  # nearly the noise, nearly the negated image
    assert torch.equal(prediction_target(training_noise(ScheduleConfig()), clean, noise, torch.tensor([0, 999])), noise)
    sampled = sampler(config)
    sampled.set_timesteps(7)
    noisy = noise * sampled.init_noise_sigma
    step = sampled.step(-clean, sampled.timesteps[0], noisy, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(step.pred_original_sample, clean, atol=0.25)


def test_the_papers_sampler_is_instruct_pix2pixs() -> None:
    made = sampler(preset("paper").schedule)
    published = EulerAncestralDiscreteScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="epsilon",
        steps_offset=1,
    )
    assert type(made) is EulerAncestralDiscreteScheduler
    assert dict(made.config) == {**published.config, "_use_default_values": made.config["_use_default_values"]}
    assert torch.equal(made.sigmas, published.sigmas) and torch.equal(made.timesteps, published.timesteps)


def test_a_zero_snr_schedule_starts_from_pure_noise() -> None:
    trained, sampled = training_noise(NANO), sampler(NANO)
    assert isinstance(sampled, DDIMScheduler) and torch.equal(trained.alphas_cumprod, sampled.alphas_cumprod)
    assert trained.alphas_cumprod[-1] == 0 and trained.alphas_cumprod[-2] > 0
    clean, noise = torch.ones(1, 4, 2, 2), torch.randn(1, 4, 2, 2)
    assert torch.equal(trained.add_noise(clean, noise, torch.tensor([999])), noise)
    for steps in (1, 2, 7):
        sampled.set_timesteps(steps)
        assert sampled.timesteps[0] == 999 and len(sampled.timesteps) == steps


def test_a_clean_latents_schedule_trains_and_samples_clean_latents() -> None:
    schedule, sampled = training_noise(NANO), sampler(NANO)
    clean, noise = torch.full((2, 4, 2, 2), 5.0), torch.randn(2, 4, 2, 2)
    assert prediction_target(schedule, clean, noise, torch.tensor([0, 999])) is clean
    sampled.set_timesteps(1)
    painted = sampled.step(clean, sampled.timesteps[0], noise).prev_sample
    assert torch.allclose(painted, clean), "and nothing is clipped to [-1, 1]"


def test_the_signal_to_noise_falls_to_nothing_and_stays_finite() -> None:
    ratios = signal_to_noise(training_noise(NANO), torch.arange(1000))
    assert (ratios.diff() < 0).all() and ratios[-1] == 0 and ratios.isfinite().all()
    halves = training_noise(ScheduleConfig())
    at = torch.tensor([500])
    assert signal_to_noise(halves, at) == pytest.approx(
        float(halves.alphas_cumprod[500] / (1 - halves.alphas_cumprod[500]))
    )
