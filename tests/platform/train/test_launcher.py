"""Workers train under DeepSpeed as one plain loop would, whichever is killed and however many go on."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fireedit.platform.train.engine import EngineConfig, check_engine
from fireedit.platform.train.launcher import WorkersConfig, launch
from fireedit.platform.train.optimizer import AveragedWeights, OptimizerConfig, build_optimizers, rate_at

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

    from fireedit.platform.train import checkpoints
    from fireedit.platform.train.engine import Engine

    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    accumulate = MICRO_BATCHES // workers
    config = EngineConfig(
        micro_batch=4, accumulate=accumulate, precision="fp32", zero_stage=settings["zero_stage"], clip=0.5
    )
    engine = Engine(model(), config, settings["optimizer"], ema=settings["ema"])
    resumed = checkpoints.resume(engine)
    losses = resumed["losses"] if resumed else []
    for step in range(len(losses) + 1, settings["stop"] + 1):
        total = 0.0
        for part in range(accumulate):
            x = micro_batch(step, part * workers + rank)
            loss = (engine.model(x) - x).square().mean()
            engine.step(loss, step / (STEPS + 1))
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


def plain_loop(config: OptimizerConfig, ema: float) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The same training in one process without any engine; the weights are averaged ones if `ema`."""
    module = model()
    named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    optimizers = build_optimizers(named, config)
    rates = [(group, group["lr"]) for optimizer in optimizers for group in optimizer.param_groups]
    averages = AveragedWeights([parameter for _, parameter in named], ema)
    losses = []
    for step in range(1, STEPS + 1):
        x = torch.cat([micro_batch(step, number) for number in range(MICRO_BATCHES)])
        loss = (module(x) - x).square().mean()
        module.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([parameter for _, parameter in named], 0.5)
        for group, rate in rates:
            group["lr"] = rate * rate_at(step / (STEPS + 1), config)
        for optimizer in optimizers:
            optimizer.step()
        averages.update()
        losses.append(loss.item())
    if ema:
        averages.swap()
    return losses, module.state_dict()


def run(
    folder: Path,
    name: str,
    workers: int,
    stop: int,
    zero_stage: int = 2,
    killed: str = "",
    optimizer: OptimizerConfig = OPTIMIZER,
    ema: float = 0.0,
) -> dict[str, Any]:
    """Train until step `stop`, going on with the run of this name; what rank 0 saved at the end."""
    out = folder / "out.pt"
    settings = {"out": str(out), "stop": stop, "zero_stage": zero_stage, "killed": killed}
    settings |= {"optimizer": optimizer, "ema": ema}
    launch(loop, settings, WorkersConfig(count=workers, cpus=0.5, max_failures=1), str(folder), name, 1)
    return torch.load(out, weights_only=True)


def assert_as_a_plain_loop(trained: dict[str, Any], optimizer: OptimizerConfig = OPTIMIZER, ema: float = 0.0) -> None:
    losses, state = plain_loop(optimizer, ema)
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
@pytest.mark.parametrize(("zero_stage", "muon_lr", "ema"), [(0, 0.02, 0.7), (2, None, 0.7), (3, None, 0.0)])
def test_a_run_goes_on_with_another_number_of_workers(
    ray_session: None, tmp_path: Path, zero_stage: int, muon_lr: float | None, ema: float
) -> None:
    """Whole weights under Muon, shards of them under AdamW; averaged or not."""
    optimizer = replace(OPTIMIZER, muon_lr=muon_lr)
    for workers, stop in ((2, SAVED_AT[0]), (1, SAVED_AT[1]), (2, STEPS)):
        trained = run(tmp_path, "resized", workers, stop, zero_stage, optimizer=optimizer, ema=ema)
    assert_as_a_plain_loop(trained, optimizer, ema)


@pytest.mark.parametrize(
    ("engine", "muon_lr", "ema", "said"),
    [
        (EngineConfig(micro_batch=1, zero_stage=3), None, 0.9, "ema: found 0.9 where ZeRO 3 shards the weights"),
        (EngineConfig(micro_batch=1, precision="fp32"), 0.1, 0.0, "muon_lr: found ZeRO 2 in fp32, which flattens"),
        (EngineConfig(micro_batch=1, zero_stage=0), 0.1, 0.0, "muon_lr: found ZeRO 0 in bf16.*engine.precision=fp32"),
    ],
)
def test_what_needs_whole_weights_is_refused_where_there_are_none(
    engine: EngineConfig, muon_lr: float | None, ema: float, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        check_engine(engine, OptimizerConfig(lr=1, muon_lr=muon_lr), ema)
