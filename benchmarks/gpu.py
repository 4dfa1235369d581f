"""Benchmark of one card: edits with each switch, diffusers' InstructPix2Pix, memory, throughput, training steps.

Weights are random, of the paper's sizes, so that nothing has to be downloaded. Parts run in order of importance and
risk in processes of their own, and results are written after every row: an error, a hang, `--minutes` or a signal
costs what it cuts off and no more.
"""

import time

BEGUN = time.monotonic()  # before imports that take seconds

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import argparse
import json
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch

from fireedit.benchmarks.measuring import ProcessFailedError, items_of
from fireedit.benchmarks.speed import card
from fireedit.benchmarks.speed.report import Row, begin, cell, to_markdown
from fireedit.platform.console import say

PRECISIONS = ("fp32", "bf16", "fp16")
"""Words of models.layers.component.DTYPES, whose import would take seconds of the run."""
IMPORTS_S = 60.0
"""Seconds that a process has to import what it needs, beside those of its first part."""


class CutOff(BaseException):
    """End of the run by a signal."""


@dataclass(frozen=True)
class Part:
    """Part of the run, which `speed.parts` measures by its name."""

    name: str
    least_s: float
    """Seconds on a large GPU below which it is not begun."""
    most_s: float
    """Seconds after which it is killed; rows that it has given are kept."""
    process: str = ""
    """Parts in a row with the same word share a process until one of them fails; without a word it has its own. In a
    tiny run all share one, as imports would take most of its time."""
    table: str = ""
    """Table of its rows, its name by default."""


PARTS = (
    Part("roofline", 5, 40, "plain"),
    Part("diffusers", 15, 90, "plain"),
    Part("edit", 20, 90, "plain"),
    Part("memory", 5, 40, "plain"),
    Part("throughput", 15, 90, "plain"),
    Part("training", 40, 150),
    Part("edit, compiled", 60, 240),
    Part("edit, switches in turn", 25, 90, "switches"),
    Part("edit, LLM in 8 bits", 10, 60, "switches"),
    Part("training, stage 2", 40, 120, table="training"),
    Part("throughput, compiled", 45, 150),
    Part("edit, compiled, share_keys", 45, 150, table="edit, compiled"),
    Part("training, on Ray Train", 50, 150, table="training"),
    Part("diffusers, compiled", 45, 180),
    Part("training, stage 3 under ZeRO 2", 40, 120, table="training"),
    Part("training, stage 2 under ZeRO 2", 40, 120, table="training"),
    Part("training, stage 3 without ZeRO", 40, 120, table="training"),
    Part(DRIFT := "drift of nano's pictures", 60, 1200),
)
"""Parts: first what is certain, then what the goals need, then the rest. diffusers comes before edits, whose pipeline
the next parts share."""


@dataclass
class Benchmark:
    """A run, and where its results are written."""

    device: str
    precision: str
    tiny: bool
    minutes: float
    result: dict[str, Any]
    path: Path
    begun: float

    @property
    def seconds_left(self) -> float:
        return self.begun + 60 * self.minutes - time.monotonic()

    def run(self, parts: Sequence[Part]) -> None:
        """Run parts in order until the time is over or a signal comes."""
        waiting = list(parts)
        try:
            with _cut_off_by_signals():
                while waiting:
                    if self._has_time(waiting[0]):
                        self._run_together(waiting)
                    else:
                        self._leave_out(waiting.pop(0), "no time left")
        except CutOff:
            for part in waiting:
                self._leave_out(part, "cut off")
        finally:
            self.write()

    def _has_time(self, part: Part) -> bool:
        return self.seconds_left >= (0 if self.tiny else part.least_s)

    def _run_together(self, waiting: list[Part]) -> None:
        """Run the first part, with those that share its process; takes what has ended, at least one, from the list."""
        first = waiting[0]
        company = [first, *takewhile(lambda part: part.process == first.process != "", waiting[1:])]
        arguments = ([part.name for part in company], self.device, self.precision, self.tiny)
        deadline = time.monotonic() + IMPORTS_S + first.most_s
        begins = 0

        def wait_s() -> float:
            return min(deadline - time.monotonic(), self.seconds_left)

        try:
            with closing(items_of(_measure, *arguments, wait_s=wait_s)) as items:
                for name, row in items:
                    if row is not None:
                        self._add(waiting[0], row)
                        continue
                    if begins:
                        waiting.pop(0)
                    if not self._has_time(waiting[0]):
                        return
                    begins, deadline = begins + 1, time.monotonic() + waiting[0].most_s
                    say(f"{name} ({self.seconds_left:.0f} s left)")
        except TimeoutError:
            part = waiting[0]
            self._leave_out(part, f"killed after {part.most_s:g} s" if self.seconds_left > 0 else "cut off")
        except ProcessFailedError as error:
            self.result["errors"][waiting[0].name] = error.details
            self._leave_out(waiting[0], str(error))
        waiting.pop(0)

    def _add(self, part: Part, row: Row) -> None:
        self.result["parts"].setdefault(part.table or part.name, []).append(row)
        self.write()
        say("  " + ", ".join(f"{name} {cell(value)}" for name, value in row.items()))

    def _leave_out(self, part: Part, reason: str) -> None:
        self.result["left_out"][part.name] = reason
        say(f"  {part.name}: {reason}")
        self.write()

    def write(self) -> None:
        """Write the results as JSON, and beside it as a page, each at once."""
        page = to_markdown(self.result)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for target, text in ((self.path, json.dumps(self.result, indent=1)), (self.path.with_suffix(".md"), page)):
            partial = target.with_name(f"{target.name}.part")
            partial.write_text(f"{text.rstrip()}\n")
            os.replace(partial, target)


def _measure(names: list[str], device: str, precision: str, tiny: bool) -> Iterator[tuple[str, Row | None]]:
    """Measure parts; an import that fails is told like any failure."""
    from fireedit.benchmarks.speed.parts import measure_parts

    if tiny and device == "cpu":
        torch.set_num_threads(1)  # small tensors: a second thread waits more than it computes
    return measure_parts(names, device, precision, tiny)


@contextmanager
def _cut_off_by_signals() -> Iterator[None]:
    def cut_off(*_: object) -> None:
        raise CutOff

    handlers = {number: signal.signal(number, cut_off) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def main(argv: Sequence[str] | None = None, begun: float | None = None) -> int:
    """Run the benchmark, whose time counts from `begun` of `time.monotonic`."""
    begun = time.monotonic() if begun is None else begun
    args = build_parser().parse_args(argv)
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("gpu.py: torch finds no GPU; write --device cpu --tiny to check the benchmark itself")
    precision = args.precision or ("bf16" if device.type == "cuda" else "fp32")
    path = Path(args.out) / f"{card.name_of(device)}{'-tiny' if args.tiny else ''}.json"
    result = begin(card.name_of(device), args.tiny, precision, args.minutes)
    benchmark = Benchmark(args.device, precision, args.tiny, args.minutes, result, path, begun)
    chosen = [part for part in PARTS if part.name in args.only]
    benchmark.run([replace(part, process="all") if args.tiny else part for part in chosen])
    print(json.dumps({"out": str(path), "goals": result["goals"], "left_out": result["left_out"]}))
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda or cpu (default: %(default)s)")
    parser.add_argument("--precision", choices=PRECISIONS, help="of the edits (default: bf16 on cuda, fp32 on cpu)")
    parser.add_argument("--tiny", action="store_true", help="small sizes and few steps, to check the benchmark itself")
    parser.add_argument("--minutes", type=float, default=5, help="time of the run (default: %(default)s)")
    names = [part.name for part in PARTS]
    default = [name for name in names if name != DRIFT]
    parser.add_argument("--only", nargs="+", choices=names, default=default, help="parts (default: all but the drift)")
    parser.add_argument("--out", default="results/gpu", help="folder of CARD.json and CARD.md (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main(begun=BEGUN))
