"""diffusers' `callback_on_step_end`: the properties that it reads of a pipeline, the tensors that it may replace."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from fireedit.models.sampling import SamplingState
from fireedit.models.settings import PaintSettings

StepCallback = Callable[..., Mapping[str, Tensor] | None]
"""Function of the pipeline, the step, its timestep and the tensors; returns those to replace."""
TENSORS = {"latents": "latents", "prompt_embeds": "edit_tokens", "image_latents": "source"}
"""diffusers' names of a callback's tensors, and the fields of `SamplingState`: without branches of the guidance."""


class StepProperties:
    """Properties that diffusers' callbacks read of a pipeline, those of the last sampling that it began."""

    _interrupt = False
    _num_timesteps = 0
    _running: PaintSettings

    def begin_steps(self, state: SamplingState) -> None:
        """Show a sampling that is about to run."""
        self._running, self._num_timesteps = state.settings, len(state.scheduler.timesteps)

    @property
    def num_timesteps(self) -> int:
        """Number of timesteps; samplers of second order take two for most steps."""
        return self._num_timesteps

    @property
    def guidance_scale(self) -> float:
        return self._running.guidance_scale

    @property
    def image_guidance_scale(self) -> float:
        return self._running.image_guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        return self._running.guided

    @property
    def interrupt(self) -> bool:
        """Truth of a request, `pipe._interrupt = True`, to stop before the next step."""
        return self._interrupt


def check_callback(callback: StepCallback | None, names: Sequence[str]) -> None:
    """Raise ValueError unless the callback can be called, and get the tensors of these names."""
    if callback is not None and not callable(callback):
        raise ValueError(f"callback_on_step_end is a {type(callback).__name__}; write a function")
    if not isinstance(names, list | tuple):
        raise ValueError(f"callback_on_step_end_tensor_inputs is {names!r}; write a list of {', '.join(TENSORS)}")
    if unknown := sorted(set(names) - set(TENSORS)):
        raise ValueError(f"callback_on_step_end_tensor_inputs: unknown {unknown}; write some of {', '.join(TENSORS)}")


def call_back(callback: StepCallback, pipeline: Any, step: int, state: SamplingState, names: Sequence[str]) -> None:
    """Call after a step, and replace the tensors of the state that the callback returns.

    Raises:
        ValueError: a returned tensor has another shape.
    """
    tensors = {name: getattr(state, TENSORS[name]) for name in names}
    returned = callback(pipeline, step, state.scheduler.timesteps[step], dict(tensors)) or {}
    for name, old in tensors.items():
        new = returned.get(name, old)
        if new.shape != old.shape:
            raise ValueError(f"the callback returns {name} of shape {[*new.shape]}; write {[*old.shape]}")
        setattr(state, TENSORS[name], new.to(old))
