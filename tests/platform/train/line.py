"""A small task of the training loop that several tests train: a line through numbered batches of points."""

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fireedit.platform import storage
from fireedit.platform.train.engine import Engine, EngineConfig, build_engine
from fireedit.platform.train.loop import Loop, LoopConfig
from fireedit.platform.train.optimizer import OptimizerConfig
from fireedit.platform.train.progress import Progress, Row
from fireedit.platform.train.session import Session
from fireedit.platform.train.writers import MetricsFile, Writer

PASSES = 4
"""Forward passes of a step, on all workers together."""
CONSTANT = OptimizerConfig(lr=0.1, weight_decay=0.1)


@dataclass(frozen=True)
class LineLosses:
    total: Tensor

    def named(self) -> Iterator[tuple[str, Tensor]]:
        yield "loss", self.total.detach()


@dataclass(frozen=True)
class LineBatch:
    number: int
    x: Tensor

    def to(self, device: torch.device) -> "LineBatch":
        return LineBatch(self.number, self.x.to(device))


@dataclass
class LineTask:
    """Fits a line to numbered batches of points; calls `at[step]` within a step, and loses all sense at `nan_at`."""

    rank: int
    workers: int
    at: Mapping[int, Callable[[], object]] = field(default_factory=dict)
    seen: list[int] = field(default_factory=list)
    saved: list[int] = field(default_factory=list)
    nan_at: int | None = None
    """Number of the batch whose loss is NaN."""

    def batches(self, position: Mapping[str, Any]) -> Generator[LineBatch]:
        number = position.get("batches", 0) + self.rank
        while True:
            yield LineBatch(number, torch.randn(4, 1, generator=torch.Generator().manual_seed(number)))
            number += self.workers

    def losses(self, engine: Engine, batch: LineBatch) -> LineLosses:
        factor = math.nan if batch.number == self.nan_at else 1.0
        return LineLosses(factor * F.mse_loss(engine.model(batch.x), 3 * batch.x - 1))  # type: ignore[arg-type]

    def record(self, step: int, batch: LineBatch, losses: LineLosses) -> int:
        self.seen.append(batch.number)
        if step in self.at:
            self.at[step]()
        return len(batch.x)

    def figures(self, total: Callable[[Tensor], Tensor]) -> Row:
        return {"batches": total(torch.tensor([len(self.seen)])).item()}

    def position(self, step: int) -> dict[str, Any]:
        return {"batches": PASSES * step}

    def saving(self, step: int, engine: Engine) -> None:
        self.saved.append(step)


def line_loop(
    session: Session,
    task: LineTask,
    folder: str,
    config: LoopConfig,
    optimizer: OptimizerConfig = CONSTANT,
    more: Callable[[int], Sequence[Writer]] = lambda start: (),
) -> Loop:
    """Begin a sitting of the run in `folder`, of the same weights whenever it begins anew; rows go to metrics.jsonl."""
    torch.manual_seed(0)
    accumulate = PASSES // session.workers
    engine_config = EngineConfig(micro_batch=4, accumulate=accumulate, precision="fp32", zero_stage=None)
    engine = build_engine(nn.Linear(1, 1), engine_config, optimizer, ema=0.9)

    def writers(start: int) -> list[Writer]:
        return [MetricsFile(storage.join(folder, "metrics.jsonl"), start), *more(start)]

    progress = Progress(session.workers)
    return Loop(task, engine, session, config, writers, progress, storage.join(folder, "traces"))
