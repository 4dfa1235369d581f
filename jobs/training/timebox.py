"""Everything that makes the small model within one box of time: what runs when, beside what, and for how long."""

import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from fireedit.jobs.training.saved import alone

CHECKOUT = Path(__file__).resolve().parents[2]
ARCHIVE_BYTES = 15_000_000
MOST_ARCHIVES = 6
SLACK_S = 60.0
"""How much longer than planned a task may start up and judge before it is told to end."""
GRACE_S = 20.0
"""How long a task that is told to end may take to save what it has."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One command; `end` is the share of the box until which it may start up, train and be judged."""

    name: str
    end: float
    needs: tuple[str, ...] = ()
    """Tasks that must have succeeded before."""
    after: tuple[str, ...] = ()
    """Tasks that must have ended before, so that no more run side by side than the machine has cores for."""
    command: tuple[str, ...]
    """Arguments of Python; `minutes=` is put behind them."""
    timed: bool = True
    """Whether it takes `minutes=`."""
    overhead_s: float = 0.0
    """What starting and judging it take, which is no training."""
    before: Callable[[], None] | None = None
    """Done right before it starts."""


@dataclass
class Running:
    task: Task
    process: subprocess.Popen[str]
    ends: float
    """Seconds of the box at which it is told to end."""
    lines: list[str] = field(default_factory=list)
    told: bool = False
    reader: threading.Thread | None = None
    """Keeps what the process says."""


class Box:
    """Runs tasks as processes of their own, each when what it needs is done, and ends each at its time.

    Args:
        seconds: length of the box.
        environment: of the processes, beside our own.
    """

    def __init__(self, tasks: Sequence[Task], seconds: float, environment: Mapping[str, str], logs: Path):
        self.tasks, self.seconds, self.logs = list(tasks), seconds, logs
        self.environment = {**os.environ, **environment}
        self.began = time.monotonic()
        self.reports: dict[str, dict[str, Any]] = {}
        """What each finished task said in its last line, or under `error` how it failed."""
        logs.mkdir(parents=True, exist_ok=True)

    @property
    def now(self) -> float:
        return time.monotonic() - self.began

    def plan(self) -> str:
        """The box as lines for a person."""
        lines = [f"{'part':10s} {'until':>8s}  after"]
        for task in self.tasks:
            end, before = f"{task.end * self.seconds / 60:.1f} min", ", ".join((*task.needs, *task.after))
            lines.append(f"{task.name:10s} {end:>8s}  {before or '-'}")
        return "\n".join(lines)

    def run(self, on_finished: Callable[[Task, dict[str, Any]], None]) -> dict[str, dict[str, Any]]:
        """Run all tasks; `on_finished` is called with each one's report as it ends."""
        waiting, running = list(self.tasks), list[Running]()
        with _ended_with_us(running):
            while waiting or running:
                for task in [task for task in waiting if self._may_start(task)]:
                    waiting.remove(task)
                    broken = [need for need in task.needs if "error" in self.reports.get(need, {})]
                    if broken:
                        self._finish(task, {"error": f"needs {broken[0]}, which failed"}, on_finished)
                    else:
                        running.append(self._start(task))
                for one in [one for one in running if one.process.poll() is not None]:
                    running.remove(one)
                    self._finish(one.task, _report_of(one, self.logs), on_finished)
                for one in running:
                    self._keep_time(one)
                time.sleep(0.2)
        return self.reports

    def _may_start(self, task: Task) -> bool:
        names = {one.name for one in self.tasks}
        return all(name in self.reports or name not in names for name in (*task.needs, *task.after))

    def _start(self, task: Task) -> Running:
        if task.before is not None:
            task.before()
        left_s = task.end * self.seconds - self.now - task.overhead_s
        command = [sys.executable, *task.command]
        if task.timed:
            command.append(f"minutes={max(left_s, 1.0) / 60:.3f}")
        print(f"[{self.now:5.0f} s] {task.name}: {max(left_s, 1):.0f} s of training", file=sys.stderr, flush=True)
        log = (self.logs / f"{task.name}.log").open("a")
        process = subprocess.Popen(
            command, cwd=CHECKOUT, env=self.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        ends = self.now + max(left_s, 1.0) + task.overhead_s + SLACK_S if task.timed else math.inf
        running = Running(task, process, ends)
        running.reader = threading.Thread(target=_follow, args=(running, log), daemon=True)
        running.reader.start()
        return running

    def _keep_time(self, one: Running) -> None:
        if not one.told and self.now > one.ends:
            one.told = True
            one.process.send_signal(signal.SIGTERM)
        elif one.told and self.now > one.ends + GRACE_S:
            one.process.kill()

    def _finish(self, task: Task, report: dict[str, Any], on_finished: Callable[[Task, dict[str, Any]], None]) -> None:
        self.reports[task.name] = report
        told = report.get("error") or "done"
        print(f"[{self.now:5.0f} s] {task.name}: {told}", file=sys.stderr, flush=True)
        on_finished(task, report)


def archive(folder: Path, out: Path) -> list[Path]:
    """Write a folder as OUT/nano.tar.0, ... of at most ARCHIVE_BYTES each, whole or not at all.

    `cat nano.tar.* | tar x` brings it back.

    Raises:
        ValueError: it would be more than MOST_ARCHIVES files.
    """
    out.mkdir(parents=True, exist_ok=True)
    draft = out / ".nano.tar"
    with tarfile.open(draft, "w") as tar:
        tar.add(folder, arcname="nano", filter=lambda info: None if info.name.endswith(".lock") else info)
    size = draft.stat().st_size
    count = -(-size // ARCHIVE_BYTES)
    if count > MOST_ARCHIVES:
        draft.unlink()
        raise ValueError(f"{folder} is {size / 1e6:.0f} MB; at most {MOST_ARCHIVES} files of 15 MB are written")
    written = []
    with draft.open("rb") as whole:
        for number in range(count):
            part = out / f".nano.tar.{number}"
            part.write_bytes(whole.read(ARCHIVE_BYTES))
            written.append(part.replace(out / f"nano.tar.{number}"))
    for stale in range(count, MOST_ARCHIVES):
        (out / f"nano.tar.{stale}").unlink(missing_ok=True)
    draft.unlink()
    return written


def replace_folder(new: Path, old: Path) -> None:
    """Put a copy of a folder in the place of another, while no part writes to it."""
    with alone(new):
        shutil.rmtree(old, ignore_errors=True)
        shutil.copytree(new, old, ignore=shutil.ignore_patterns(".lock"))


def _follow(running: Running, log: IO[str]) -> None:
    """Keep a process's lines, and show people those that tell of progress."""
    assert running.process.stdout is not None
    with log, running.process.stdout as said:
        for line in said:
            log.write(line)
            log.flush()
            running.lines.append(line.rstrip("\n"))
            if "step  " in line:
                print(f"  {running.task.name:8s} {line[line.index('step  ') :].rstrip()}", file=sys.stderr, flush=True)


def _report_of(one: Running, logs: Path) -> dict[str, Any]:
    """The JSON of a process's last line, or how it ended."""
    assert one.reader is not None
    one.reader.join(GRACE_S)  # its last lines may still be on their way to us
    found = next((line for line in reversed(one.lines) if line.startswith("{")), None)
    if one.process.returncode == 0 and found is not None:
        return json.loads(found)
    tail = one.lines[-1] if one.lines else "it said nothing"
    if one.told:
        return {"stopped": tail}
    return {"error": f"exit code {one.process.returncode}: {tail} (all of it: {logs / one.task.name}.log)"}


@contextlib.contextmanager
def _ended_with_us(running: list[Running]) -> Iterator[None]:
    """Tell all processes to end if this one is interrupted, and wait until they have saved what they have."""

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
        for one in running:
            one.process.send_signal(signal.SIGTERM)
        for one in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                one.process.wait(GRACE_S)
        signal.signal(signal.SIGTERM, before)
