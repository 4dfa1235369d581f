"""Two workers train under DeepSpeed as one plain loop would, and a worker that is killed costs nothing but time."""

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
from fireedit.platform.train.optimizer import OptimizerConfig, build_optimizer, warmup

STEPS, SAVED_AT, KILLED_AT = 6, 3, 5
OPTIMIZER = OptimizerConfig(lr=0.01, warmup_ratio=0.5)
ENGINE = EngineConfig(micro_batch=4, accumulate=2, precision="fp32", zero_stage=2, clip=0.5)


def model() -> nn.Module:
    torch.manual_seed(0)
    frozen, learning = nn.Linear(8, 16), nn.Linear(16, 8)
    frozen.requires_grad_(False)
    return nn.Sequential(frozen, nn.GELU(), learning)


def micro_batch(step: int, part: int, rank: int) -> torch.Tensor:
    return torch.randn(4, 8, generator=torch.Generator().manual_seed(100 * step + 10 * part + rank))


def loop(settings: dict[str, Any]) -> None:
    import ray.train

    from fireedit.platform import checkpoints
    from fireedit.platform.train.engine import Engine

    rank = ray.train.get_context().get_world_rank()
    engine = Engine(model(), ENGINE, OPTIMIZER, STEPS)
    resumed = checkpoints.resume(engine)
    losses = resumed["losses"] if resumed else []
    for step in range(len(losses) + 1, STEPS + 1):
        total = 0.0
        for part in range(ENGINE.accumulate):
            x = micro_batch(step, part, rank)
            loss = (engine.model(x) - x).square().mean()
            engine.step(loss)
            total += engine.mean({"loss": loss.detach()})["loss"] / ENGINE.accumulate
        losses.append(total)
        if step == KILLED_AT and rank == 1 and not os.path.exists(settings["killed"]):
            Path(settings["killed"]).touch()
            time.sleep(3)  # the controller learns of a checkpoint at its next look
            os.kill(os.getpid(), signal.SIGKILL)
        if step in (SAVED_AT, STEPS):
            checkpoints.save(engine, {"losses": losses}, {"step": step})
    with engine.gathered() as trained:
        if rank == 0:
            torch.save({"losses": losses, "state": trained.state_dict(), "resumed": bool(resumed)}, settings["out"])


def plain_loop() -> tuple[list[float], dict[str, torch.Tensor]]:
    """The same training in one process without any engine."""
    module = model()
    named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    optimizer = build_optimizer(named, OPTIMIZER)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup(OPTIMIZER, STEPS))
    losses = []
    for step in range(1, STEPS + 1):
        x = torch.cat([micro_batch(step, part, rank) for part in range(ENGINE.accumulate) for rank in (0, 1)])
        loss = (module(x) - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([parameter for _, parameter in named], ENGINE.clip)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses, module.state_dict()


@pytest.mark.ray
@pytest.mark.slow
def test_two_workers_one_of_them_killed_train_as_a_plain_loop_does(ray_session: None, tmp_path: Path) -> None:
    out = tmp_path / "out.pt"
    launch(
        loop,
        {"out": str(out), "killed": str(tmp_path / "killed-once")},
        datasets={},
        workers=WorkersConfig(count=2, cpus=0.5, max_failures=1),
        folder=str(tmp_path),
        name="killed",
        keep_checkpoints=1,
    )
    trained = torch.load(out, weights_only=True)
    losses, state = plain_loop()
    assert trained["resumed"], "the killed worker's group went on from its checkpoint"
    assert trained["losses"] == pytest.approx(losses, rel=1e-4)
    for name, tensor in state.items():
        torch.testing.assert_close(trained["state"][name], tensor, rtol=1e-4, atol=1e-5)
    kept = [path for path in (tmp_path / "killed").glob("checkpoint_*") if path.is_dir()]
    assert len(kept) == 1, "only the newest checkpoint is kept"
