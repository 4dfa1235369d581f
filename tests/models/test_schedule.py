"""Training and sampling know one noise, that of Stable Diffusion and InstructPix2Pix."""

import torch

from fireedit.models.schedule import ScheduleConfig, sampler, training_noise


def test_training_and_sampling_agree_on_the_noise() -> None:
    trained, sampled = training_noise(ScheduleConfig()), sampler(ScheduleConfig())
    assert torch.equal(trained.alphas_cumprod, sampled.alphas_cumprod)
    assert trained.config.prediction_type == sampled.config.prediction_type == "epsilon"


def test_the_betas_are_stable_diffusions() -> None:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    assert torch.allclose(training_noise(ScheduleConfig()).betas, betas)


def test_sampling_walks_from_noise_to_clean_by_fractional_timesteps() -> None:
    schedule = sampler(ScheduleConfig())
    schedule.set_timesteps(7)
    assert len(schedule.timesteps) == 7 and schedule.timesteps[0] == 999 and schedule.timesteps[-1] == 0
    assert (schedule.timesteps.diff() < 0).all() and (schedule.timesteps % 1 != 0).any()


def test_timestep_0_is_nearly_clean_and_the_last_nearly_noise() -> None:
    schedule, clean, noise = training_noise(ScheduleConfig()), torch.ones(2, 4, 2, 2), torch.zeros(2, 4, 2, 2)
    kept = schedule.add_noise(clean, noise, torch.tensor([0, 999]))[:, 0, 0, 0]
    assert kept[0] > 0.999 and kept[1] < 0.07
