"""Samplers: each scheduler of diffusers paints as if it were configured by hand, or is refused before any work."""

import inspect
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, SchedulerMixin
from torch import Tensor

from fireedit.jobs.evaluation.cases import Cases
from fireedit.models.model import Percepts
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.sampler import check_sampler, started, take_step
from fireedit.models.schedule import ScheduleConfig, sampler

pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # diffusers' own

ACCEPTED = (
    "CogVideoXDDIMScheduler",
    "DDIMParallelScheduler",
    "DDIMScheduler",
    "DDPMParallelScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "SASolverScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
)
"""Schedulers of diffusers that sample clean latents."""
BY_HAND = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "sample",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "steps_offset": 1,
    "clip_sample": False,
}
"""Nano's schedule, as arguments of those schedulers that take them."""
STEPS = 4


class Shipped:
    """The shipped pipeline, and one edit that each sampler paints."""

    def __init__(self) -> None:
        self.pipeline = FireEditPipeline.from_pretrained("nano")
        self.pipeline.set_progress_bar_config(disable=True)
        self.case = Cases(64).of("unseen_seeds", "remove", 1)[0]
        self.percepts: Percepts = self.pipeline.perceive([self.case.source])
        self.edit_tokens = self.pipeline.understand(self.percepts, [self.case.instruction])

    def paint(self, scheduler: Any, steps: int = STEPS) -> Tensor:
        """Paint with a scheduler in place of the pipeline's own."""
        settings = self.pipeline.settings.but(num_inference_steps=steps, keep_below=0.0)
        own, self.pipeline.scheduler = self.pipeline.scheduler, scheduler
        try:
            generators = [torch.Generator().manual_seed(0)]
            state = self.pipeline.prepare(
                [self.case.source], self.percepts, self.edit_tokens, settings, generators, copies=[1]
            )
            return self.pipeline.paint(state)
        finally:
            self.pipeline.scheduler = own


@pytest.fixture(scope="module")
def shipped() -> Shipped:
    return Shipped()


@pytest.fixture(scope="module")
def reference(shipped: Shipped) -> Tensor:
    return shipped.paint(shipped.pipeline.scheduler, 4 * STEPS)


def of_diffusers(config: Any) -> list[Any]:
    """Build every scheduler that diffusers can build of a config."""
    kinds = [getattr(diffusers, name) for name in dir(diffusers) if name.endswith("Scheduler")]
    built = []
    for kind in kinds:
        try:
            built.append(kind.from_config(config))
        except (AttributeError, ImportError, TypeError, ValueError):
            continue  # of another library, or with arguments of its own
    return built


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_scheduler_of_the_saved_config_paints_as_one_configured_by_hand(
    shipped: Shipped, reference: Tensor, name: str
) -> None:
    kind = getattr(diffusers, name)
    painted = shipped.paint(kind.from_config(shipped.pipeline.scheduler.config))
    arguments = {key: value for key, value in BY_HAND.items() if key in inspect.signature(kind.__init__).parameters}
    assert torch.equal(painted, shipped.paint(kind(**arguments)))
    assert (painted - reference).abs().mean() < 0.08, "nearly DDIM's picture; DEIS, SA-Solver and TCD leave some noise"


def test_every_other_scheduler_is_refused_by_its_name(shipped: Shipped) -> None:
    accepted = []
    for scheduler in of_diffusers(shipped.pipeline.scheduler.config):
        name = type(scheduler).__name__
        try:
            check_sampler(scheduler, 2)
        except ValueError as error:
            assert str(error).startswith(f"{name} cannot sample in num_inference_steps=2") and "\n" not in str(error)
            assert str(error).endswith("write pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)")
        else:
            accepted.append(name)
    assert set(accepted) == set(ACCEPTED)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("PNDMScheduler", "prediction_type given as sample"),
        ("KDPM2DiscreteScheduler", "prediction_type not implemented yet: sample"),
        ("IPNDMScheduler", "it takes no prediction_type"),
        ("FlowMatchEulerDiscreteScheduler", "it takes no prediction_type"),
        ("CogVideoXDPMScheduler", "its step needs old_pred_original_sample and timestep_back too"),
        ("HeliosScheduler", "it has no scale_model_input and no init_noise_sigma"),
        ("DDIMInverseScheduler", "true predictions end in latents that are off by"),
    ],
)
def test_a_scheduler_is_refused_before_any_work(
    shipped: Shipped, name: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = FireEditPipeline(**shipped.pipeline.components)
    pipeline.scheduler = getattr(diffusers, name).from_config(pipeline.scheduler.config)
    monkeypatch.setattr(pipeline, "perceive", lambda *_: pytest.fail("the edit began"))
    with pytest.raises(ValueError, match=f"{name} .*'sample': {reason}"):
        pipeline("Remove it.", shipped.case.source)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    check_sampler(pipeline.scheduler, 2)


def test_a_sampler_of_few_steps_is_refused_for_many(shipped: Shipped) -> None:
    lcm = diffusers.LCMScheduler.from_config(shipped.pipeline.scheduler.config)
    check_sampler(lcm, 50)
    with pytest.raises(ValueError, match="LCMScheduler .*num_inference_steps=100"):
        check_sampler(lcm, 100)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_trial_knows_every_prediction(prediction: Any) -> None:
    """CogVideoX's shifts the noise away from the timesteps, which a UNet that predicts it notices."""
    config = sampler(ScheduleConfig(prediction_type=prediction, timestep_spacing="leading")).config
    more = ("EulerAncestralDiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler")
    for name in {*ACCEPTED, *more, "PNDMScheduler"} - {"CogVideoXDDIMScheduler"}:
        check_sampler(getattr(diffusers, name).from_config(config), 4)
    for name in ("CogVideoXDDIMScheduler", "EDMEulerScheduler", "DDIMInverseScheduler"):
        with pytest.raises(ValueError, match=f"{name}.*{prediction}.*off by"):
            check_sampler(getattr(diffusers, name).from_config(config), 4)


@pytest.mark.parametrize("kind", [diffusers.DPMSolverMultistepScheduler, diffusers.UniPCMultistepScheduler])
def test_equal_first_timesteps_are_all_taken(kind: type[SchedulerMixin]) -> None:
    """Near zero SNR several noise levels round to the last timestep."""
    scheduler = kind.from_config(BY_HAND, use_beta_sigmas=True)
    own, latents = started(scheduler, 20, "cpu"), torch.randn(1, 1, 4, 4)
    assert own.timesteps[0] == own.timesteps[1]
    for timestep in own.timesteps:
        latents = take_step(own, torch.zeros_like(latents), timestep, latents, None).prev_sample
    assert latents.abs().max() < 1e-3, "clean latents of zero"


def test_each_sampling_has_a_sampler_of_its_own(shipped: Shipped) -> None:
    own = shipped.pipeline.scheduler
    first, second = started(own, 3, "cpu"), started(own, 5, "cpu")
    assert (len(first.timesteps), len(second.timesteps)) == (3, 5)
    assert own.num_inference_steps is None and type(first) is type(own)
