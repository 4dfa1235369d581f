"""Training and sampling know one noise, that of Stable Diffusion and InstructPix2Pix."""

import torch

from fireedit.models.schedule import ScheduleConfig, sampler, training_noise, wanted_prediction


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


def test_a_schedule_of_velocities_asks_for_them_and_samples_by_them() -> None:
    config = ScheduleConfig(prediction_type="v_prediction")
    schedule, clean, noise = training_noise(config), torch.ones(2, 4, 2, 2), torch.full((2, 4, 2, 2), 3.0)
    wanted = wanted_prediction(schedule, clean, noise, torch.tensor([0, 999]))[:, 0, 0, 0]
    assert wanted[0] > 2.8 and -1 < wanted[1] < -0.7  # nearly the noise, nearly the negated picture
    assert torch.equal(wanted_prediction(training_noise(ScheduleConfig()), clean, noise, torch.tensor([0, 999])), noise)
    sampled = sampler(config)
    sampled.set_timesteps(7)
    noisy = noise * sampled.init_noise_sigma
    step = sampled.step(-clean, sampled.timesteps[0], noisy, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(step.pred_original_sample, clean, atol=0.25)
