"""Workers train under DeepSpeed as one plain loop would, whichever is killed and however many go on."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fireedit.platform.train.engine import EngineConfig
from fireedit.platform.train.launcher import WorkersConfig, launch
from fireedit.platform.train.optimizer import OptimizerConfig, build_optimizer, learning_rate_over

STEPS, SAVED_AT, KILLED_AT = 6, (2, 4), 5
OPTIMIZER = OptimizerConfig(lr=0.01, warmup_ratio=0.5, cooldown_ratio=0.3)
MICRO_BATCHES = 4
"""In a step, on all workers together."""


def model() -> nn.Module:
    torch.manual_seed(0)
    frozen, learning = nn.Linear(8, 16), nn.Linear(16, 8)
    frozen.requires_grad_(False)
    return nn.Sequential(frozen, nn.GELU(), learning)


def micro_batch(step: int, number: int) -> torch.Tensor:
    return torch.randn(4, 8, generator=torch.Generator().manual_seed(100 * step + number))


def loop(settings: dict[str, Any]) -> None:
    import ray.train

    from fireedit.platform import checkpoints
    from fireedit.platform.train.engine import Engine

    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    accumulate = MICRO_BATCHES // workers
    config = EngineConfig(
        micro_batch=4, accumulate=accumulate, precision="fp32", zero_stage=settings["zero_stage"], clip=0.5
    )
    engine = Engine(model(), config, OPTIMIZER, STEPS)
    resumed = checkpoints.resume(engine)
    losses = resumed["losses"] if resumed else []
    for step in range(len(losses) + 1, settings["stop"] + 1):
        total = 0.0
        for part in range(accumulate):
            x = micro_batch(step, part * workers + rank)
            loss = (engine.model(x) - x).square().mean()
            engine.step(loss)
            total += engine.mean({"loss": loss.detach()})["loss"] / accumulate
        losses.append(total)
        if step == KILLED_AT and rank == 1 and settings["killed"] and not os.path.exists(settings["killed"]):
            Path(settings["killed"]).touch()
            time.sleep(3)  # the controller learns of a checkpoint at its next look
            os.kill(os.getpid(), signal.SIGKILL)
        if step in (*SAVED_AT, STEPS):
            checkpoints.save(engine, {"losses": losses}, {"step": step})
    with engine.gathered() as trained:
        if rank == 0:
            torch.save({"losses": losses, "state": trained.state_dict(), "resumed": bool(resumed)}, settings["out"])


def plain_loop() -> tuple[list[float], dict[str, torch.Tensor]]:
    """The same training in one process without any engine."""
    module = model()
    named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    optimizer = build_optimizer(named, OPTIMIZER)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate_over(STEPS, OPTIMIZER))
    losses = []
    for step in range(1, STEPS + 1):
        x = torch.cat([micro_batch(step, number) for number in range(MICRO_BATCHES)])
        loss = (module(x) - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([parameter for _, parameter in named], 0.5)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses, module.state_dict()


def run(folder: Path, name: str, workers: int, stop: int, zero_stage: int = 2, killed: str = "") -> dict[str, Any]:
    """Train until step `stop`, going on with the run of this name; what rank 0 saved at the end."""
    out = folder / "out.pt"
    settings = {"out": str(out), "stop": stop, "zero_stage": zero_stage, "killed": killed}
    launch(loop, settings, WorkersConfig(count=workers, cpus=0.5, max_failures=1), str(folder), name, 1)
    return torch.load(out, weights_only=True)


def assert_as_a_plain_loop(trained: dict[str, Any]) -> None:
    losses, state = plain_loop()
    assert trained["resumed"], "the run went on from its checkpoint"
    assert trained["losses"] == pytest.approx(losses, rel=1e-4)
    for name, tensor in state.items():
        torch.testing.assert_close(trained["state"][name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.ray
@pytest.mark.slow
def test_two_workers_one_of_them_killed_train_as_a_plain_loop_does(ray_session: None, tmp_path: Path) -> None:
    assert_as_a_plain_loop(run(tmp_path, "killed", 2, STEPS, killed=str(tmp_path / "killed-once")))
    kept = [path for path in (tmp_path / "killed").glob("checkpoint_*") if path.is_dir()]
    assert len(kept) == 1, "only the newest checkpoint is kept"


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [2, 3])
def test_a_run_goes_on_with_another_number_of_workers(ray_session: None, tmp_path: Path, zero_stage: int) -> None:
    run(tmp_path, "resized", 2, SAVED_AT[0], zero_stage)
    run(tmp_path, "resized", 1, SAVED_AT[1], zero_stage)
    assert_as_a_plain_loop(run(tmp_path, "resized", 2, STEPS, zero_stage))
