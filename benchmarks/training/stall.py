"""Stall of training by a checkpoint of a gigabyte: written in the background, or before training goes on."""

import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train import Checkpoint
from torch import Tensor, nn

from fireedit.platform.train import checkpoints
from fireedit.platform.train.engine import Engine, EngineConfig, build_engine
from fireedit.platform.train.launcher import RaySession, launch
from fireedit.platform.train.loop import Loop, LoopConfig
from fireedit.platform.train.optimizer import OptimizerConfig
from fireedit.platform.train.progress import Progress, Row
from fireedit.platform.train.runs import Run
from fireedit.platform.train.session import Write
from fireedit.platform.train.workers import WorkersConfig

WIDTH = 9500
"""Rows and columns of the trained matrix: with AdamW's moments a checkpoint of 1.08 GB."""
STEPS, SAVE_EVERY = 24, 6


@dataclass(frozen=True)
class Rows:
    """Batch of random rows [1, WIDTH]."""

    values: Tensor

    def to(self, device: torch.device) -> "Rows":
        return Rows(self.values.to(device))


@dataclass(frozen=True)
class OneLoss:
    total: Tensor

    def named(self) -> Generator[tuple[str, Tensor]]:
        yield "loss", self.total.detach()


@dataclass
class TimedTask:
    """A matrix learns to copy rows; notes when each step begins."""

    began: list[float] = field(default_factory=list)

    def batches(self, position: Mapping[str, Any]) -> Generator[Rows]:
        while True:
            yield Rows(torch.randn(1, WIDTH))

    def losses(self, engine: Engine, batch: Rows) -> OneLoss:
        self.began.append(time.perf_counter())
        return OneLoss((engine.model(batch.values) - batch.values).square().mean())

    def record(self, step: int, batch: Rows, losses: OneLoss) -> int:
        return 1

    def figures(self, total: Callable[[Tensor], Tensor]) -> Row:
        return {}

    def position(self, step: int) -> dict[str, Any]:
        return {}

    def saving(self, step: int, engine: Engine) -> None:
        """Write nothing."""


def measure(folder: Path, mode: str) -> dict[str, float]:
    """Train with checkpoints `async`, `sync`, or of nothing (`report`); returns seconds.

    Returns:
        `step`: median time of a step; `gap`: median additional time of a step with a checkpoint before the next;
        `slower`: additional time of all other steps, per checkpoint; `write`: time of a synchronous write and report.
    """
    run = Run(str(folder), mode)
    result = folder / f"{mode}.pt"
    config = {"mode": mode, "result": str(result), "run": run}
    workers = WorkersConfig(count=1, cpus=1, max_failures=0)
    launch(_loop, config, workers, run, keep=1, passes=1)
    return torch.load(result)


def _loop(session: RaySession, config: dict[str, Any]) -> None:
    engine = build_engine(
        nn.Linear(WIDTH, WIDTH, bias=False),
        EngineConfig(micro_batch=1, precision="fp32", zero_stage=1),
        OptimizerConfig(lr=1e-4),
    )
    writes = list[float]()
    if config["mode"] == "sync":
        session.save = partial(_save_synchronously, session, writes)  # type: ignore[method-assign]
    elif config["mode"] == "report":
        session.save = partial(_save_nothing, session)  # type: ignore[method-assign]
    task = TimedTask()
    loop = LoopConfig(steps=STEPS, save_every=SAVE_EVERY, log_every=STEPS)
    Loop(task, engine, session, loop, lambda start: (), Progress(), "").train()
    gaps = [after - before for before, after in zip(task.began, task.began[1:], strict=False)][2:]  # less warm-up
    saved = [(place + 3) % SAVE_EVERY == 0 for place in range(len(gaps))]
    step = statistics.median(gap for gap, save in zip(gaps, saved, strict=True) if not save)
    after_saves = [gap - step for gap, save in zip(gaps, saved, strict=True) if save]
    others = [gap - step for gap, save in zip(gaps, saved, strict=True) if not save]
    figures = {"step": step, "gap": statistics.median(after_saves), "slower": sum(others) / len(after_saves)}
    torch.save(figures | ({"write": statistics.median(writes)} if writes else {}), config["result"])


def _save_synchronously(
    session: RaySession, writes: list[float], step: int, write: Write, row: Row, validate: bool = False
) -> None:
    """Write to a temporary folder and let Ray Train copy it before the next step, as its guide does."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        write(folder)
        ray.train.report(
            dict(row), checkpoint=Checkpoint.from_directory(folder), checkpoint_dir_name=checkpoints.name_of(step)
        )
    writes.append(time.perf_counter() - began)


def _save_nothing(session: RaySession, step: int, write: Write, row: Row, validate: bool = False) -> None:
    """Report without a checkpoint: the wait of `ray.train.report` alone."""
    ray.train.report(dict(row))
