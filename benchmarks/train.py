"""Benchmark of training: Ray Train beside torchrun, the stall of a checkpoint, and bytes read for each row.

The exit status is 1 if a bar is missed.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from fireedit.benchmarks.serving.figures import Figure, report, show_section
from fireedit.benchmarks.training import reads, stall, steps
from fireedit.platform.cluster import start_ray
from fireedit.platform.console import say


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    folder = Path(tempfile.mkdtemp(prefix="fireedit-train-"))
    say(f"runs and logs are in {folder}")
    sections = {}
    for name in args.only:
        sections[name] = {"steps": step_times, "stall": stalls, "reads": bytes_read}[name](folder, args)
        show_section(name, sections[name])
    result = report(sections)
    print(json.dumps(result))
    return 1 if result["missed"] else 0


def step_times(folder: Path, args: argparse.Namespace) -> list[Figure]:
    """Compare the seconds per sample of interleaved runs, with a core left to Ray's own processes and with none."""
    cores = len(os.sched_getaffinity(0))
    figures = []
    for workers in sorted({max(cores - 1, 1), cores}):
        where = f"workers on {workers} of {cores} cores"
        ratio, on_ray, alone = steps.ratio(folder / "steps", workers, args.rounds, args.steps)
        figures += [
            Figure(f"seconds per sample, Ray Train over torchrun, {where}", ratio, "", most=1.05),
            Figure(f"seconds per sample, Ray Train, {where}", on_ray, "s"),
            Figure(f"seconds per sample, torchrun, {where}", alone, "s"),
        ]
    return figures


def stalls(folder: Path, args: argparse.Namespace) -> list[Figure]:
    """Compare the gap before the next step of an asynchronous checkpoint with a synchronous one."""
    start_ray()
    measured = {mode: stall.measure(folder / "stall", mode) for mode in ("report", "sync", "async")}
    waits = measured["report"]["gap"]
    asynchronous, synchronous = measured["async"]["gap"] - waits, measured["sync"]["gap"] - waits
    return [
        Figure("gap of an asynchronous checkpoint over a synchronous one", asynchronous / synchronous, "", most=0.2),
        Figure("the same with the waits of report()", measured["async"]["gap"] / measured["sync"]["gap"], "", most=0.2),
        Figure("gap of an asynchronous checkpoint, beyond report()", asynchronous, "s"),
        Figure("gap of a synchronous checkpoint, beyond report()", synchronous, "s"),
        Figure("gap of report() alone", waits, "s"),
        Figure("later steps together, for each asynchronous checkpoint", measured["async"]["slower"], "s"),
        Figure("step without a checkpoint", measured["async"]["step"], "s"),
    ]


def bytes_read(folder: Path, args: argparse.Namespace) -> list[Figure]:
    """Read a pass of two corpora with four workers of one node."""
    start_ray()
    return [
        Figure(f"bytes fetched over bytes of the rows, {kind}", reads.ratio(folder / "reads", kind), "", most=1.2)
        for kind in ("pool", "ray")
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    sections = ("steps", "stall", "reads")
    parser.add_argument("--only", nargs="+", choices=sections, default=sections)
    parser.add_argument("--rounds", type=int, default=4, help="runs of each launcher (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=40, help="steps of a run (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
