"""Scheduler of tasks within a fixed time: runs processes side by side and ends each at its deadline."""

import contextlib
import io
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

from fireedit.jobs.training.nano_folder import locked
from fireedit.platform import storage
from fireedit.platform.console import say

CHECKOUT = Path(__file__).resolve().parents[2]
ARCHIVE_BYTES = 15_000_000
"""Largest size of one file of an archive."""
MOST_ARCHIVES = 6
"""Largest number of files of an archive."""
GRACE_S = 20.0
"""Time that a task may take to save after SIGTERM before it is killed."""


@dataclass(frozen=True, kw_only=True)
class TimedTask:
    """Command of a time box."""

    name: str
    end: float
    """Share of the box in [0, 1] at which startup, training and evaluation should be done."""
    needs: tuple[str, ...] = ()
    """Names of tasks that must succeed first."""
    after: tuple[str, ...] = ()
    """Names of tasks that must end first, so that no more tasks run than the machine has cores for."""
    command: tuple[str, ...]
    """Arguments of Python; `minutes=` is appended."""
    overhead_s: float | None = 0.0
    """Time of startup and evaluation, subtracted from the training time; None: the command takes no `minutes=`."""
    before: Callable[[], None] | None = None
    """Function called right before the task starts."""


@dataclass
class RunningTask:
    """Process of a task and its output."""

    task: TimedTask
    process: subprocess.Popen[str]
    deadline_s: float
    """Time since the start of the box at which the process is sent SIGTERM."""
    lines: list[str] = field(default_factory=list)
    """Output so far."""
    stopped: bool = False
    """SIGTERM was sent."""
    reader: threading.Thread | None = None
    """Thread that reads the output."""


Reports = dict[str, dict[str, Any]]
"""JSON of the last line of each finished task, or {"error": reason}, by task name."""


class TimeBox:
    """Runs tasks as processes: starts each when the tasks it needs are done, and stops it at its deadline.

    Args:
        seconds: length of the box.
        environment: variables of the processes, added to those of this process.
        logs: folder of one log file for each task.
        slack_s: time beyond its plan that a task may take to start and evaluate before it is sent SIGTERM.
    """

    def __init__(
        self, tasks: Sequence[TimedTask], seconds: float, environment: Mapping[str, str], logs: Path, slack_s: float
    ):
        self.tasks, self.seconds, self.logs, self.slack_s = list(tasks), seconds, logs, slack_s
        self.environment = {**os.environ, **environment}
        self.began = time.monotonic()
        self.reports: Reports = {}
        logs.mkdir(parents=True, exist_ok=True)

    @property
    def now(self) -> float:
        """Seconds since the start of the box."""
        return time.monotonic() - self.began

    def plan(self) -> str:
        """Format the schedule as a table."""
        lines = [f"{'part':12s} {'until':>8s}  after"]
        for task in self.tasks:
            end, earlier = f"{task.end * self.seconds / 60:.1f} min", ", ".join((*task.needs, *task.after))
            lines.append(f"{task.name:12s} {end:>8s}  {earlier or '-'}")
        return "\n".join(lines)

    def run(self, on_finished: Callable[[], None] = lambda: None) -> Reports:
        """Run all tasks; call `on_finished` after each."""
        waiting, running = list(self.tasks), list[RunningTask]()
        with _stopping_on_exit(running):
            while waiting or running:
                for task in [task for task in waiting if self._may_start(task)]:
                    waiting.remove(task)
                    failed = [need for need in task.needs if "error" in self.reports.get(need, {})]
                    if failed:
                        self._finish(task, {"error": f"needs {failed[0]}, which failed"}, on_finished)
                    else:
                        running.append(self._start(task))
                for ended in [child for child in running if child.process.poll() is not None]:
                    running.remove(ended)
                    self._finish(ended.task, _report_of(ended, self.logs), on_finished)
                for child in running:
                    self._enforce_deadline(child)
                time.sleep(0.2)
        return self.reports

    def _may_start(self, task: TimedTask) -> bool:
        names = {task.name for task in self.tasks}
        return all(name in self.reports or name not in names for name in (*task.needs, *task.after))

    def _start(self, task: TimedTask) -> RunningTask:
        if task.before is not None:
            task.before()
        command, deadline_s = [sys.executable, *task.command], math.inf
        training_s = max(task.end * self.seconds - self.now - (task.overhead_s or 0.0), 1.0)
        if task.overhead_s is not None:
            command.append(f"minutes={training_s / 60:.3f}")
            deadline_s = self.now + training_s + task.overhead_s + self.slack_s
        say(f"[{self.now:5.0f} s] {task.name}: {training_s:.0f} s of training")
        log = (self.logs / f"{task.name}.log").open("a")
        process = subprocess.Popen(
            command, cwd=CHECKOUT, env=self.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        running = RunningTask(task, process, deadline_s)
        running.reader = threading.Thread(target=_follow, args=(running, log), daemon=True)
        running.reader.start()
        return running

    def _enforce_deadline(self, running: RunningTask) -> None:
        if not running.stopped and self.now > running.deadline_s:
            running.stopped = True
            running.process.send_signal(signal.SIGTERM)
        elif running.stopped and self.now > running.deadline_s + GRACE_S:
            running.process.kill()

    def _finish(self, task: TimedTask, report: dict[str, Any], on_finished: Callable[[], None]) -> None:
        self.reports[task.name] = report
        say(f"[{self.now:5.0f} s] {task.name}: {report.get('error') or 'done'}")
        on_finished()


def archive(folder: Path, out: Path, file_bytes: int = ARCHIVE_BYTES) -> list[Path]:
    """Write a folder as OUT/nano.tar.0, ... of at most `file_bytes` each; `cat nano.tar.* | tar x` unpacks it.

    Files appear under their names only when they are complete.

    Raises:
        ValueError: the folder needs more than MOST_ARCHIVES files.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.add(folder, arcname="nano", filter=lambda info: None if info.name.endswith(".lock") else info)
    data = buffer.getvalue()
    if len(data) > MOST_ARCHIVES * file_bytes:
        limit = f"{MOST_ARCHIVES} files of {file_bytes / 1e6:g} MB"
        raise ValueError(f"{folder} is {len(data) / 1e6:.0f} MB; at most {limit} are written")
    files = [out / f"nano.tar.{number}" for number in range(-(-len(data) // file_bytes))]
    for number, file in enumerate(files):
        storage.write_bytes(str(file), data[number * file_bytes : (number + 1) * file_bytes])
    for stale in set(out.glob("nano.tar.*")) - set(files):
        stale.unlink()
    return files


def replace_folder(new: Path, old: Path) -> None:
    """Replace a folder by a copy of another one, which is locked meanwhile."""
    with locked(new):
        shutil.rmtree(old, ignore_errors=True)
        shutil.copytree(new, old, ignore=shutil.ignore_patterns(".lock"))


def _follow(running: RunningTask, log: IO[str]) -> None:
    """Store and log a process's output, and print its lines of progress."""
    assert running.process.stdout is not None
    with log, running.process.stdout as output:
        for line in output:
            log.write(line)
            log.flush()
            running.lines.append(line.rstrip("\n"))
            if "step  " in line:
                say(f"  {running.task.name:12s} {line[line.index('step  ') :].rstrip()}")


def _report_of(ended: RunningTask, logs: Path) -> dict[str, Any]:
    """Parse the last line of JSON of a process, or describe its failure."""
    assert ended.reader is not None
    ended.reader.join(GRACE_S)  # the last lines may not have been read yet
    report = next((line for line in reversed(ended.lines) if line.startswith("{")), None)
    if ended.process.returncode == 0 and report is not None:
        return json.loads(report)
    tail = ended.lines[-1] if ended.lines else "no output"
    if ended.stopped:
        return {"stopped": tail}
    return {"error": f"exit code {ended.process.returncode}: {tail} (log: {logs / ended.task.name}.log)"}


@contextlib.contextmanager
def _stopping_on_exit(running: list[RunningTask]) -> Iterator[None]:
    """Stop all processes when this one is interrupted, and wait until they have saved."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second signal must not interrupt saving
        for child in running:
            child.process.send_signal(signal.SIGTERM)
        for child in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(GRACE_S)
        signal.signal(signal.SIGTERM, before)
