"""The training loop of every stage and every pretrained part, on Ray, under torchrun or in one process."""

import math
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from fireedit.platform import storage
from fireedit.platform.console import say
from fireedit.platform.train.checkpoints import CheckpointFiles, Snapshot
from fireedit.platform.train.clock import Clock
from fireedit.platform.train.engine import Engine
from fireedit.platform.train.progress import Progress, Row
from fireedit.platform.train.session import Session, attempt_name
from fireedit.platform.train.writers import Writer, write_all

LOOK_S = 5.0
"""Seconds between two looks for nodes that are about to go."""


class DivergedError(ArithmeticError):
    """Training whose losses or gradients are not finite; the message names the step and the figures."""


class Losses(Protocol):
    """Losses of a batch."""

    @property
    def total(self) -> Tensor:
        """Loss to minimize."""

    def named(self) -> Iterator[tuple[str, Tensor]]:
        """Yield names and detached values for reports, `loss` first."""


class Task(Protocol):
    """Module, data and records of one training; a batch is any object with `to(device)`."""

    def batches(self, position: Mapping[str, Any]) -> Generator[Any]:
        """Read this worker's batches from a position on; {} is the beginning."""

    def losses(self, engine: Engine, batch: Any) -> Losses:
        """Run the engine's model on a batch; called once for every pass."""

    def record(self, step: int, batch: Any, losses: Any) -> int:
        """Keep the records of a pass; returns its samples."""

    def figures(self, total: Callable[[Tensor], Tensor]) -> Row:
        """Give more figures of the passes since the last report; `total` sums over the workers."""

    def position(self, step: int) -> dict[str, Any]:
        """Give the position after a step, as JSON holds it."""

    def saving(self, step: int, engine: Engine) -> None:
        """Write what has to be there before the checkpoint of a step."""


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """Length of a run and its intervals."""

    steps: PositiveInt | None = None
    minutes: PositiveFloat | None = None
    """Length of the run: `steps` or `minutes` of training over all sittings, whichever comes first."""
    log_every: PositiveInt = 10
    """Steps between reports."""
    save_every: PositiveInt | None = None
    """Steps between checkpoints."""
    save_every_s: PositiveFloat | None = None
    """Seconds of training between checkpoints."""
    validate_every: PositiveInt | None = None
    """Steps between validations, which begin at step 0; None validates nothing."""
    profile: NonNegativeInt = 0
    """Steps of the first worker that torch's profiler records, after two."""


@dataclass(frozen=True)
class Ended:
    """End of a sitting."""

    step: int
    stopped: str
    """Reason why the run ended before its recipe said; empty if it is finished."""


class Loop:
    """One sitting of a run on one worker.

    Args:
        writers: makes the callbacks for reports, on the first worker, from the step that the sitting begins at.
        traces: folder for the profiler's trace.
    """

    def __init__(
        self,
        task: Task,
        engine: Engine,
        session: Session,
        config: LoopConfig,
        writers: Callable[[int], Sequence[Writer]],
        progress: Progress,
        traces: str,
    ):
        self.task, self.engine, self.session, self.config = task, engine, session, config
        self.progress, self.traces = progress, traces
        self.resumes, self.step, self.position, elapsed_s = self._resume()
        self.clock = Clock(config.steps, config.minutes, elapsed_s)
        self.writers = writers(self.step) if session.rank == 0 else ()
        self.snapshot = Snapshot()
        self.stopped = ""
        self._saved_s = self._reported_s = self._looked_s = elapsed_s
        self._reported = self.step
        self._leaves = self._saves_soon = False

    def train(self) -> Ended:
        """Take steps until the clock or a wish to stop ends the sitting; report and save when it is time.

        Raises:
            DivergedError: a figure is not finite, on all workers at the same report; nothing is saved since the last.
        """
        with ExitStack() as stack:
            for writer in self.writers:
                stack.callback(writer.close)
            self._take_steps()
        self.session.wait()
        return Ended(self.step, self.stopped)

    def _take_steps(self) -> None:
        with closing(self.task.batches(self.position)) as batches, self._profiler() as profiler:
            if self.config.validate_every and not self.resumes:
                self.save({"step": 0})
            while not self.clock.over(self.step) and not self.stopped:
                self.step += 1
                self.take_step(batches)
                profiler.step()
                self._agree()
                saves = self._saves_now()
                if saves or self.step % self.config.log_every == 0:
                    row = self.report()
                    if saves:
                        self.save(row)

    def take_step(self, batches: Iterator[Any]) -> None:
        """Run forward and backward for every pass of an accumulation; the last one updates the weights."""
        for _ in range(self.engine.config.accumulate):
            waiting = time.perf_counter()
            batch = next(batches)
            self.clock.start()  # the first batch has come: reading is running
            batch = batch.to(self.engine.device)
            waited_s = time.perf_counter() - waiting
            losses = self.task.losses(self.engine, batch)
            self.engine.step(losses.total, self.clock.done(self.step))
            samples = self.task.record(self.step, batch, losses)
            self.progress.add(dict(losses.named()), samples, waited_s)

    def report(self) -> Row:
        """Average the figures over the workers and hand them to the writers."""
        engine, control = self.engine, self.session.control
        more = {"lr": engine.learning_rate, "grad_norm": engine.grad_norm, "left_s": self._left_s()}
        row = self.progress.report(self.step, control.mean, more | self.task.figures(control.total))
        _require_finite(row)
        self._reported, self._reported_s = self.step, self.clock.elapsed_s
        write_all(self.writers, row)
        return row

    def save(self, row: Row) -> None:
        """Copy this worker's part of a checkpoint and have it written while training goes on."""
        self.task.saving(self.step, self.engine)
        position = {"elapsed_s": self.clock.elapsed_s, "task": self.task.position(self.step)}
        state = self.engine.state(self.step, self.session.control.first(attempt_name()), position)
        self.session.wait()  # until the last copy is written
        self.snapshot.take(self.engine.owned())
        write = partial(self.snapshot.write, state=state, rank=self.session.rank)
        self.session.save(self.step, write, row, validate=self._validates_now())
        self._saved_s, self._saves_soon = self.clock.elapsed_s, False

    def _resume(self) -> tuple[bool, int, dict[str, Any], float]:
        """Load the newest complete checkpoint; returns true if there is one, its step, position and training time."""
        address = self.session.latest()
        if address is None:
            return False, 0, {}, 0.0
        with CheckpointFiles.open(address) as files:
            self.engine.load(files)
            state = files.state
        if self.session.rank == 0:
            say(f"resumes after step {state.step}")
        return True, state.step, state.position["task"], state.position["elapsed_s"]

    def _agree(self) -> None:
        """Agree with the other workers on the time, and on ending: one small message between CPUs."""
        first, reason = self.session.rank == 0, self.session.stop_reason()
        seconds, stops = self.session.control.total(
            torch.tensor([self.clock.now_s() if first else 0.0, float(bool(reason))])
        ).tolist()
        self.clock.tick(seconds)
        self.stopped = (reason or "another worker was asked to") if stops else ""
        if seconds - self._looked_s > LOOK_S:
            leaves, self._looked_s = self.session.leaves_soon(), seconds
            self._saves_soon = self._saves_soon or (leaves and not self._leaves)
            self._leaves = leaves

    def _saves_now(self) -> bool:
        config = self.config
        every = config.save_every is not None and self.step % config.save_every == 0
        timed = self.clock.elapsed_s - self._saved_s > (config.save_every_s or math.inf)
        ends = bool(self.stopped) or self.clock.over(self.step)
        return every or timed or ends or self._saves_soon or self._validates_now()

    def _validates_now(self) -> bool:
        every = self.config.validate_every
        return every is not None and (self.step % every == 0 or self.clock.over(self.step))

    def _left_s(self) -> float:
        """Estimate the seconds until the run's end from the speed since the last report."""
        speed_s = (self.clock.elapsed_s - self._reported_s) / max(self.step - self._reported, 1)
        ends = [] if self.config.steps is None else [speed_s * (self.config.steps - self.step)]
        return max(min(ends + ([] if self.clock.left_s is None else [self.clock.left_s])), 0.0)

    def _profiler(self) -> AbstractContextManager[Any]:
        if not self.config.profile or self.session.rank:
            return nullcontext(_NoProfiler())
        self._profiled = self.step + 3
        schedule = torch.profiler.schedule(wait=1, warmup=1, active=self.config.profile, repeat=1)
        return torch.profiler.profile(schedule=schedule, on_trace_ready=self._write_trace)

    def _write_trace(self, profiler: torch.profiler.profile) -> None:
        with tempfile.TemporaryDirectory() as folder:
            profiler.export_chrome_trace(f"{folder}/trace.json")
            address = storage.join(self.traces, f"steps-{self._profiled}-{self.step}.json")
            storage.write_bytes(address, Path(folder, "trace.json").read_bytes())
        say(f"wrote {address}; open it at chrome://tracing or ui.perfetto.dev")


def _require_finite(row: Row) -> None:
    """Raise DivergedError where a loss or gradient of the steps since the last report is not finite."""
    wrong = next((f"{name} {value}" for name, value in row.items() if not math.isfinite(value)), None)
    if wrong is not None:
        raise DivergedError(
            f"step {row['step']}: training has diverged to {wrong}, and nothing of it is saved; go on from the last "
            "checkpoint with a lower optimizer.lr, and optimizer.muon_lr where it is set"
        )


class _NoProfiler:
    def step(self) -> None:
        """Do nothing."""
