"""Training under kills: runs that lose workers, nodes and drivers take the steps of an unbroken one, bit for bit.

The exit status is 1 if a run does not end, repeats or skips a sample, or has another loss at any step.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import argparse
import json
import os
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from fireedit.benchmarks.serving.figures import Figure, report, show_section
from fireedit.benchmarks.training.nodes import Nodes
from fireedit.platform.console import say
from fireedit.platform.train.progress import Row, from_lines
from fireedit.platform.train.runs import Run

CHECKOUT = Path(__file__).resolve().parents[1]
STEPS, SAVE_EVERY = 24, 3
RECIPE = (
    *("engine={micro_batch: 2, precision: fp32, zero_stage: 1}", "optimizer={lr: 1.0e-3}", "ema=0.9"),
    *(
        "scenes={rows: 40, size: 32}",
        "workers={count: 2, cpus: 0.5}",
        "mixture={instructpix2pix: 1, llava_instruct: 1}",
    ),
    *("objective.denoise_weight=1", "ingest={tasks: 1, cpus_per_task: 0.25}"),
    *("log_every=1", "validate_every=null"),
    *(f"save_every={SAVE_EVERY}", f"steps={STEPS}"),
)
END_WITHIN_S = 600.0


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    folder = Path(tempfile.mkdtemp(prefix="fireedit-chaos-"))
    say(f"runs and logs are in {folder}")
    chance = random.Random(args.seed)
    with Nodes() as nodes:
        actions: dict[str, Callable[[Job], None]] = {
            "worker": lambda job: nodes.kill_worker(),
            "node": lambda job: nodes.kill_node(),
            "driver": lambda job: job.signal(signal.SIGKILL),
            "sigterm": lambda job: job.signal(signal.SIGTERM),
            "drain": lambda job: nodes.drain_node(),
        }
        unbroken = Job(folder, "unbroken", nodes.address)
        unbroken.run_to_its_end()
        figures = []
        for kind in args.only:
            for number in range(args.times if kind in ("worker", "node", "driver") else 1):
                job = Job(folder, f"{kind}-{number}", nodes.address)
                figures += disturbed(job, actions[kind], chance.randint(4, STEPS - 4), unbroken)
    show_section("runs", figures)
    result = report({"runs": figures})
    print(json.dumps(result))
    return 1 if result["missed"] else 0


class Job:
    """A run of stage 2 by `jobs/train.py` in a process of its own."""

    def __init__(self, folder: Path, name: str, address: str):
        self.run, self.log = Run(str(folder), name), folder / f"{name}.log"
        self.environment = os.environ | {"RAY_ADDRESS": address, "OMP_NUM_THREADS": "1"}
        self.words = ["jobs/train.py", "--stage", "2", f"home={folder}", f"run={name}", *RECIPE]
        self.starts = 0

    def start(self) -> subprocess.Popen[bytes]:
        self.starts += 1
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *self.words], cwd=CHECKOUT, env=self.environment, stdout=log, stderr=log
            )
        return self.process

    def run_to_its_end(self) -> None:
        """Start the run, again if it stops, until it is finished or out of time."""
        deadline = time.monotonic() + END_WITHIN_S
        while not self.run.finished and time.monotonic() < deadline:
            process = self.process if self.starts and self.process.poll() is None else self.start()
            process.wait(timeout=max(deadline - time.monotonic(), 1))

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    @property
    def rows(self) -> list[Row]:
        path = Path(self.run.metrics)
        return from_lines(path.read_bytes()) if path.exists() else []

    def batches(self) -> dict[int, set[tuple[str, ...]]]:
        """Read the ledger: the different contents that each batch of the run has had."""
        contents: dict[int, set[tuple[str, ...]]] = {}
        for path in sorted(Path(self.run.ledger).glob("[0-9]*.jsonl")):
            for entry in map(json.loads, path.read_text().splitlines()):
                contents.setdefault(entry["batch"], set()).add(tuple(entry["ids"]))
        return contents


def disturbed(job: Job, act: Callable[[Job], None], step: int, unbroken: Job) -> list[Figure]:
    """Disturb a run when it has reported a step, let it end, and compare it with the unbroken one."""
    began = time.monotonic()
    process = job.start()
    while not (job.rows and job.rows[-1]["step"] >= step):
        if process.poll() is not None or time.monotonic() - began > END_WITHIN_S:
            say(f"{job.run.name}: ended before step {step}; see {job.log}")
            break
        time.sleep(0.05)
    else:
        say(f"{job.run.name}: disturbed at step {job.rows[-1]['step']}")
        act(job)
    job.run_to_its_end()
    losses, expected = ({row["step"]: row["loss"] for row in each.rows} for each in (job, unbroken))
    steps = [row["step"] for row in job.rows]
    found, wanted = job.batches(), unbroken.batches()
    wrong = sum(found.get(number) != ids for number, ids in wanted.items()) + len(found.keys() - wanted.keys())
    differ = sum(losses.get(step) != loss for step, loss in expected.items())
    name = job.run.name
    return [
        Figure(f"{name}: finished", float(job.run.finished), least=1),
        Figure(f"{name}: steps with another loss than unbroken", differ, most=0),
        Figure(f"{name}: steps reported twice", len(steps) - len(set(steps)), most=0),
        Figure(f"{name}: batches with other samples, or missing", wrong, most=0),
        Figure(f"{name}: time", time.monotonic() - began, "s"),
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = ("worker", "node", "driver", "sigterm", "drain")
    parser.add_argument("--only", nargs="+", choices=kinds, default=kinds)
    parser.add_argument("--times", type=int, default=3, help="runs for each kind of kill (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    sys.exit(main())
