"""Evaluation under kills: its table is that of an unbroken one byte for byte, and no picture is painted twice.

The exit status is 1 if one of them differs, or does not end.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import argparse
import json
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from fireedit.benchmarks.serving.figures import Figure, report, show_section
from fireedit.platform.console import say
from fireedit.platform.scenes.world import WORLDS
from fireedit.platform.scenes.writers import magicbrush

CHECKOUT = Path(__file__).resolve().parents[1]
FILES = ("evaluation.md", "evaluation.json", "measures.jsonl")
REPLICA = "MapWorker"
"""Part of the title of a process that paints or measures."""
END_WITHIN_S = 300.0


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    folder = Path(tempfile.mkdtemp(prefix="fireedit-chaos-"))
    say(f"evaluations and logs are in {folder}")
    world, chance = WORLDS["unseen_seeds"], random.Random(args.seed)
    magicbrush.write_folder(folder / "set", list(world.seeds[: args.sessions]), 64, world)
    unbroken = Evaluation(folder, "unbroken")
    began = time.monotonic()
    unbroken.run()
    seconds = time.monotonic() - began
    kills = [Kill(folder, number, unbroken) for number in range(1, args.kills + 1)]
    for kill in kills:
        kill.run("driver" if kill.number % 2 else "replica", chance.randrange(len(unbroken.stamps())))
    figures = [
        Figure("evaluations that were killed and ended", sum(kill.ended for kill in kills), "", least=args.kills),
        Figure("of them with another table", sum(kill.differs for kill in kills), "", most=0),
        Figure("pictures painted twice", sum(kill.repainted for kill in kills), "", most=0),
        Figure("pictures of each", len(unbroken.stamps()), ""),
        Figure("unbroken evaluation", seconds, "s"),
    ]
    show_section("kills", figures)
    result = report({"kills": figures})
    print(json.dumps(result))
    return 1 if result["missed"] else 0


class Evaluation:
    """Evaluation in a folder of its own, with a Ray of its own."""

    def __init__(self, folder: Path, name: str):
        self.folder, self.out = folder, folder / name

    def start(self) -> subprocess.Popen[bytes]:
        words = [
            "jobs/evaluate.py",
            "--editor",
            "fireedit=nano",
            "--set",
            "magicbrush-test",
            "--partial",
            "--steps",
            "4",
        ]
        words += ["--data", str(self.folder / "set"), "--out", str(self.out), "--device", "cpu", "--cpus", "0.25"]
        environment = os.environ | {"RAY_ADDRESS": "local", "OMP_NUM_THREADS": "1"}
        with Path(f"{self.out}.log").open("ab") as log:
            command = [sys.executable, *words, "--replicas", "2"]
            return subprocess.Popen(command, cwd=CHECKOUT, env=environment, stdout=log, stderr=log)

    def run(self) -> None:
        """Run to the end.

        Raises:
            RuntimeError: it fails.
        """
        if status := self.start().wait(END_WITHIN_S):
            raise RuntimeError(f"the evaluation ended with {status}; see {self.out}.log")

    def stamps(self) -> dict[str, int]:
        """Times of writing of all pictures, by name."""
        return {path.name: path.stat().st_mtime_ns for path in (self.out / "pictures").glob("*/[!.]*.png")}

    def table(self) -> list[bytes]:
        return [(self.out / name).read_bytes() for name in FILES]


class Kill:
    """Evaluation that loses its driver or a replica, and is started again if it needs to be."""

    def __init__(self, folder: Path, number: int, unbroken: Evaluation):
        self.number, self.unbroken = number, unbroken
        self.evaluation = Evaluation(folder, f"killed-{number}")
        self.ended = self.differs = False
        self.repainted = 0

    def run(self, victim: str, after: int) -> None:
        """Kill the victim once `after` pictures are painted."""
        driver = self.evaluation.start()
        while driver.poll() is None and (len(self.evaluation.stamps()) < after or not _replicas(driver)):
            time.sleep(0.05)
        before, was_alive = self.evaluation.stamps(), driver.poll() is None
        if was_alive:
            _kill(_replicas(driver)[:1] if victim == "replica" else [psutil.Process(driver.pid)])
        if driver.wait(END_WITHIN_S):
            self.evaluation.run()
        self.ended = was_alive
        final = self.evaluation.stamps()
        self.repainted = sum(final[name] != stamp for name, stamp in before.items())
        self.differs = self.evaluation.table() != self.unbroken.table()
        found = "another table" if self.differs else "the same table"
        say(f"  {self.number}: {victim} killed after {len(before)} pictures: {found}")


def _replicas(driver: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Find the replicas of an evaluation's Ray."""
    try:
        children = psutil.Process(driver.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return [child for child in children if REPLICA in _title(child)]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _kill(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        process.kill()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    default = "default: %(default)s"
    parser.add_argument("--kills", type=int, default=10, help=f"of the driver and of replicas in turn ({default})")
    parser.add_argument("--sessions", type=int, default=8, help=f"of the set ({default})")
    parser.add_argument("--seed", type=int, default=0, help=f"of the moments ({default})")
    return parser


if __name__ == "__main__":
    sys.exit(main())
