"""Samplers: any scheduler of diffusers that makes a picture of what the UNet predicts."""

import copy
import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from diffusers import DDPMScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

Generators: TypeAlias = Sequence[torch.Generator] | torch.Generator | None
Sampler: TypeAlias = Any
"""Scheduler of diffusers that `check_sampler` accepts; they share no base class with `step`."""
MEMBERS = ("set_timesteps", "scale_model_input", "step", "init_noise_sigma")
PREDICTIONS = ("epsilon", "v_prediction", "sample")
TRIAL_STEPS = 4
"""Steps of a trial, which every sampler can take."""
TRIAL_ERROR = 0.1
"""Mean absolute error of a trial's latents, which are in [-1, 1]; some samplers leave noise of 0.06."""


def started(sampler: Sampler, steps: int, device: torch.device | str) -> Sampler:
    """Copy a sampler and set its timesteps; a copy of its own lets each edit be at its own step.

    Raises:
        ValueError: see `check_sampler`.
    """
    check_sampler(sampler, int(steps))
    return _started(sampler, int(steps), device)


def initial_noise(
    latents: Tensor | None, shape: torch.Size, generators: Generators, device: torch.device | str
) -> Tensor:
    """Draw float32 noise of unit variance, whatever the UNet's precision, or take the `latents` given in its place.

    Raises:
        ValueError: these are no tensor of the shape.
    """
    if latents is None:
        return randn_tensor(shape, generator=generators, device=device, dtype=torch.float32)
    if not isinstance(latents, Tensor) or latents.shape != shape:
        found = f"of shape {[*latents.shape]}" if isinstance(latents, Tensor) else f"a {type(latents).__name__}"
        raise ValueError(f"latents: found {found}; write a tensor of shape {[*shape]}")
    return latents.to(device, torch.float32)


def take_step(sampler: Sampler, predicted: Tensor, timestep: Tensor, latents: Tensor, generators: Generators) -> Any:
    """Run the sampler's `step`; those that add no noise of their own, such as UniPC, take no generator."""
    noise = {"generator": generators} if _takes_generator(type(sampler).step) else {}
    return sampler.step(predicted, timestep, latents, **noise)


@functools.cache
def _takes_generator(step: Callable[..., Any]) -> bool:
    return "generator" in inspect.signature(step).parameters


@functools.lru_cache(maxsize=64)
def check_sampler(sampler: Sampler, steps: int) -> None:
    """Sample one known picture from true predictions, on 16 numbers, and compare.

    diffusers does not declare which predictions a scheduler knows: some raise an error at the first step, others take
    any prediction for one of their own kind.

    Raises:
        ValueError: the sampler takes no such predictions or not so many steps, or does not arrive at the picture.
    """
    prediction = getattr(sampler, "config", {}).get("prediction_type", "epsilon")
    if problem := _mismatch(sampler, prediction) or _failure(sampler, steps, prediction):
        raise ValueError(
            f"{type(sampler).__name__} cannot sample in num_inference_steps={steps} from a UNet that predicts "
            f"{prediction!r}: {problem}; write pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)"
        )


def _mismatch(sampler: Sampler, prediction: str) -> str | None:
    """Compare the sampler's declared interface with that of the pipeline."""
    if "prediction_type" not in inspect.signature(type(sampler).__init__).parameters:
        return "it takes no prediction_type"
    if prediction not in PREDICTIONS:
        return f"prediction_type is none of {', '.join(PREDICTIONS)}"
    if missing := [name for name in MEMBERS if not hasattr(sampler, name)]:
        return f"it has no {' and no '.join(missing)}"
    arguments = [each for each in inspect.signature(sampler.step).parameters.values() if each.default is each.empty]
    others = [each.name for each in arguments if each.name not in ("model_output", "timestep", "sample")]
    return f"its step needs {' and '.join(others)} too" if others else None


def _failure(sampler: Sampler, steps: int, prediction: str) -> str | None:
    """Run the trial, and set the timesteps asked for; returns what went wrong."""
    try:
        error = _trial_error(sampler, TRIAL_STEPS, prediction)
        _started(sampler, steps, "cpu")
    except Exception as failure:  # a scheduler may fail in any way
        return " ".join(str(failure).split()).rstrip(".") or type(failure).__name__
    return None if error <= TRIAL_ERROR else f"true predictions end in latents that are off by {error:.2g}"


def _trial_error(sampler: Sampler, steps: int, prediction: str) -> float:
    generators = [torch.Generator().manual_seed(0)]
    sampler, alphas = _started(sampler, steps, "cpu"), _trained_alphas(sampler)
    clean = torch.linspace(-1, 1, 16).view(1, 1, 4, 4)
    latents = torch.randn(clean.shape, generator=generators[0]) * sampler.init_noise_sigma
    for timestep in sampler.timesteps:
        noisy = sampler.scale_model_input(latents, timestep)
        alpha = np.interp(float(timestep), np.arange(len(alphas)), alphas)
        noise = (noisy - math.sqrt(alpha) * clean) / math.sqrt(1 - alpha)
        velocity = math.sqrt(alpha) * noise - math.sqrt(1 - alpha) * clean
        predicted = dict(zip(PREDICTIONS, (noise, velocity, clean), strict=True))[prediction]
        latents = take_step(sampler, predicted, timestep, latents, generators).prev_sample
    return float((latents - clean).abs().mean())


def _started(sampler: Sampler, steps: int, device: torch.device | str) -> Sampler:
    sampler = copy.deepcopy(sampler)
    sampler.set_timesteps(steps, device=device)
    if hasattr(sampler, "set_begin_index"):  # otherwise it searches its first timestep, which need not be the only one
        sampler.set_begin_index(0)
    return sampler


def _trained_alphas(sampler: Sampler) -> np.ndarray:
    """Compute the cumulative products of the schedule of training, [num_train_timesteps]."""
    names = inspect.signature(DDPMScheduler.__init__).parameters
    schedule = DDPMScheduler(**{name: value for name, value in sampler.config.items() if name in names})
    return schedule.alphas_cumprod.numpy()
