"""Workers train under DeepSpeed as one plain loop does, also killed and with changing numbers of workers."""

import os
import signal
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from fireedit.platform.train.engine import EngineConfig, check_engine
from fireedit.platform.train.launcher import WorkersConfig, launch
from fireedit.platform.train.optimizer import AveragedWeights, OptimizerConfig, build_optimizers, rate_at

STEPS, SAVED_AT, KILLED_AT = 6, (2, 4), 5
OPTIMIZER = OptimizerConfig(lr=0.01, warmup_ratio=0.5, cooldown_ratio=0.3)
ENGINES = {0: (replace(OPTIMIZER, muon_lr=0.02), 0.7), 2: (OPTIMIZER, 0.7), 3: (OPTIMIZER, 0.0)}
"""ZeRO stage to optimizer and decay of the averages: whole weights under Muon, shards of them under AdamW."""
MICRO_BATCHES = 4
"""Micro batches of a step, on all workers together."""


def model() -> nn.Module:
    torch.manual_seed(0)
    frozen, trained = nn.Linear(8, 16), nn.Linear(16, 8)
    frozen.requires_grad_(False)
    return nn.Sequential(frozen, nn.GELU(), trained)


def micro_batch(step: int, number: int) -> torch.Tensor:
    return torch.randn(4, 8, generator=torch.Generator().manual_seed(100 * step + number))


def loop(settings: dict[str, Any]) -> None:
    """Train one engine after another in every step: a start of Ray Train takes longer than all their steps."""
    import ray.train

    from fireedit.platform.train.engine import Engine

    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    accumulate = MICRO_BATCHES // workers
    engines = {
        zero: Engine(
            model(),
            EngineConfig(micro_batch=4, accumulate=accumulate, precision="fp32", zero_stage=zero, clip=0.5),
            optimizer,
            ema=ema,
        )
        for zero, (optimizer, ema) in ENGINES.items()
    }
    losses = resume(engines)
    resumed = bool(losses[0])
    for step in range(len(losses[0]) + 1, settings["stop"] + 1):
        for zero, engine in engines.items():
            losses[zero].append(train_step(engine, step, accumulate, rank, workers))
        if step == KILLED_AT and rank == 1 and settings["killed"] and not os.path.exists(settings["killed"]):
            Path(settings["killed"]).touch()
            time.sleep(3)  # the controller learns of a checkpoint at its next poll
            os.kill(os.getpid(), signal.SIGKILL)
        if step in (*SAVED_AT, STEPS):
            save(engines, losses, step)
    for zero, engine in engines.items():
        with engine.gathered() as trained:
            if rank == 0:
                state = {"losses": losses[zero], "state": trained.state_dict(), "resumed": resumed}
                torch.save(state, Path(settings["out"]) / f"{zero}.pt")


def train_step(engine: Any, step: int, accumulate: int, rank: int, workers: int) -> float:
    total = 0.0
    for number in range(accumulate):
        x = micro_batch(step, number * workers + rank)
        loss = (engine.model(x) - x).square().mean()
        engine.step(loss, step / (STEPS + 1))
        total += engine.mean({"loss": loss.detach()})["loss"] / accumulate
    return total


def save(engines: dict[int, Any], losses: dict[int, list[float]], step: int) -> None:
    import ray.train

    with tempfile.TemporaryDirectory() as folder:
        for zero, engine in engines.items():
            engine.save(Path(folder) / str(zero), {"losses": losses[zero]})
        checkpoint = ray.train.Checkpoint.from_directory(folder)
        ray.train.report({"step": step}, checkpoint=checkpoint)


def resume(engines: dict[int, Any]) -> dict[int, list[float]]:
    """Load every engine from the latest checkpoint; returns their losses so far."""
    import ray.train

    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return {zero: [] for zero in engines}
    with checkpoint.as_directory() as folder:
        return {zero: engine.load(Path(folder) / str(zero))["losses"] for zero, engine in engines.items()}


def plain_loop(config: OptimizerConfig, ema: float) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Train in one process without an engine; returns losses and weights, averaged ones if `ema`."""
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


def run(folder: Path, name: str, workers: int, stop: int, killed: str = "") -> None:
    """Train until step `stop`, resuming the run of this name; the first worker writes what it has at the end."""
    settings = {"out": str(folder), "stop": stop, "killed": killed}
    launch(loop, settings, WorkersConfig(count=workers, cpus=0.5, max_failures=1), str(folder), name, 1)


@pytest.mark.ray
@pytest.mark.slow
def test_workers_resized_and_killed_train_as_a_plain_loop_does(ray_session: None, tmp_path: Path) -> None:
    killed = tmp_path / "killed-once"
    run(tmp_path, "resized", 2, SAVED_AT[0])
    run(tmp_path, "resized", 1, SAVED_AT[1])
    run(tmp_path, "resized", 2, STEPS, killed=str(killed))
    assert killed.exists()
    checkpoints = [path for path in (tmp_path / "resized").glob("checkpoint_*") if path.is_dir()]
    assert len(checkpoints) == 1, "only the newest checkpoint is kept"
    for zero, (optimizer, ema) in ENGINES.items():
        trained = torch.load(tmp_path / f"{zero}.pt", weights_only=True)
        losses, state = plain_loop(optimizer, ema)
        assert trained["resumed"], "the run resumed from its checkpoint"
        assert trained["losses"] == pytest.approx(losses, rel=1e-4), f"ZeRO {zero}"
        for name, tensor in state.items():
            torch.testing.assert_close(trained["state"][name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("engine", "muon_lr", "ema", "found"),
    [
        (EngineConfig(micro_batch=1, zero_stage=3), None, 0.9, "ema: found 0.9 where ZeRO 3"),
        (EngineConfig(micro_batch=1, precision="fp32"), 0.1, 0.0, "muon_lr: found ZeRO 2 in fp32"),
        (EngineConfig(micro_batch=1, zero_stage=0), 0.1, 0.0, "muon_lr: found ZeRO 0 in bf16.*engine.precision=fp32"),
    ],
)
def test_averages_and_muon_are_refused_without_whole_weights(
    engine: EngineConfig, muon_lr: float | None, ema: float, found: str
) -> None:
    with pytest.raises(ValueError, match=found):
        check_engine(engine, OptimizerConfig(lr=1, muon_lr=muon_lr), ema)


@pytest.mark.parametrize("resources", [{"cpus": 0.5, "gpus": 1.5}, {"cpus": 2.5}, {"cpus": 0}, {"cpus": 1, "count": 0}])
def test_resources_that_ray_cannot_reserve_are_refused(resources: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=str(list(resources.values())[-1])):
        TypeAdapter(WorkersConfig).validate_python({"count": 1, **resources})
