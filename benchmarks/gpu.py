"""Benchmark of one card: edits with each switch, diffusers' InstructPix2Pix, memory, throughput, training steps.

Weights are random, of the paper's sizes, so that nothing has to be downloaded. Parts run in order of importance, and
results are written after every row: a run that is cut off, by `--minutes` or a signal, keeps what it has.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import argparse
import gc
import importlib.util
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from fireedit.benchmarks.speed import card, plain, training
from fireedit.benchmarks.speed.drift import measure_drift
from fireedit.benchmarks.speed.edits import Edits, sizes, step_flops
from fireedit.benchmarks.speed.report import Row, begin, cell, to_markdown
from fireedit.jobs.training.loading import DTYPES
from fireedit.models.model import FireEditConfig
from fireedit.models.speed import SpeedConfig
from fireedit.platform.console import say

STEPS, MORE_STEPS = 50, 100
COUNTS = (1, 4, 8, 16)
OFF = SpeedConfig(share_keys=False)
IN_TURN: Sequence[tuple[str, dict[str, Any]]] = (
    ("share_keys", {"share_keys": True}),
    ("channels_last", {"channels_last": True}),
    ("prefixes", {"prefixes": 2}),
    ("guidance_interval 0.2 to 0.8", {"guidance_interval": (0.2, 0.8)}),
    ("reuse_every 3", {"reuse_every": 3}),
)
"""Switches, each added to those before it; the last two paint other pictures."""


class CutOff(BaseException):
    """End of the time."""


@dataclass
class Bench:
    """Device, sizes and time of a run."""

    device: torch.device
    dtype: torch.dtype
    tiny: bool
    minutes: float
    on_ray: bool
    begun: float = field(default_factory=time.monotonic)
    kept: Edits | None = None

    @property
    def config(self) -> FireEditConfig:
        return sizes(self.tiny)

    @property
    def backend(self) -> str:
        """Backend of torch.compile: on a CPU nothing is compiled, which would take minutes."""
        return "inductor" if self.device.type == "cuda" else "eager"

    @property
    def steps(self) -> int:
        return 4 if self.tiny else STEPS

    @property
    def edits(self) -> Edits:
        """Pipeline of random weights, built at its first use."""
        self.kept = self.kept or Edits.fresh(self.config, self.device, self.dtype)
        return self.kept

    @property
    def seconds_left(self) -> float:
        return self.begun + 60 * self.minutes - time.monotonic()

    def free(self) -> None:
        """Give the pipeline's memory back."""
        self.kept = None
        gc.collect()
        card.restart_peak(self.device)


@dataclass(frozen=True)
class Part:
    """Part of the run."""

    name: str
    run: Callable[[Bench], Iterator[Row]]
    least_s: float
    """Seconds on a large GPU below which it is not begun."""


def roofline(bench: Bench) -> Iterator[Row]:
    side, copied = (256, 2**22) if bench.tiny else (8192, 2**31)
    yield asdict(card.measure_roofline(bench.device, bench.dtype, side, copied))


def plain_edit(bench: Bench) -> Iterator[Row]:
    with bench.edits.switched(OFF):
        yield _edit(bench, "plain", bench.steps)


def compiled_edit(bench: Bench) -> Iterator[Row]:
    with bench.edits.switched(all_switches(bench)):
        begun = time.monotonic()
        bench.edits.edit(2)
        warm_up = {"warm_up_s": time.monotonic() - begun}
        yield _edit(bench, "all that keep the picture", bench.steps) | warm_up
        yield _edit(bench, "all that keep the picture", bench.steps * MORE_STEPS // STEPS)


def all_switches(bench: Bench) -> SpeedConfig:
    """Return the switches that keep the picture within rounding, for a single guided edit."""
    parts: Any = ("unet", "tati", "vae")
    return SpeedConfig(channels_last=True, prefixes=2, compile=parts, batch_sizes=(1, 3), backend=bench.backend)


def switches_in_turn(bench: Bench) -> Iterator[Row]:
    speed, names = OFF, "plain"
    for name, change in IN_TURN:
        speed, names = replace(speed, **change), "plain + share_keys" if names == "plain" else f"... + {name}"
        skips = speed.reuse_every > 1 or speed.guidance_interval != OFF.guidance_interval
        with bench.edits.switched(speed):
            yield _edit(bench, names, bench.steps, skips)


def more_steps(bench: Bench) -> Iterator[Row]:
    with bench.edits.switched(OFF):
        yield _edit(bench, "plain", bench.steps * MORE_STEPS // STEPS)


def drift(bench: Bench) -> Iterator[Row]:
    """Measure the pictures of nano's trained weights: random ones show nothing."""
    bench.free()
    yield from measure_drift(bench.device, bench.dtype, of_each_family=3)


def _edit(bench: Bench, name: str, steps: int, skips: bool = False) -> Row:
    """Measure an edit, and its operations a second, where its steps skip none."""
    card.restart_peak(bench.device)
    row: Row = {"switches": name, "steps": steps, **bench.edits.latency(steps)}
    speed = None if skips else step_flops(bench.config) / (row["step_ms"] / 1000)
    return row | {"flops_per_s": speed, "peak_gib": card.peak_gib(bench.device)}


def diffusers_edit(bench: Bench) -> Iterator[Row]:
    yield from _diffusers(bench, compiled=False)


def diffusers_compiled(bench: Bench) -> Iterator[Row]:
    yield from _diffusers(bench, compiled=True)


def _diffusers(bench: Bench, compiled: bool) -> Iterator[Row]:
    dtype = torch.float16 if bench.device.type == "cuda" else torch.float32
    pipeline = plain.build(bench.config, bench.device, dtype)
    if compiled:
        plain.compile_unet(pipeline, bench.device, bench.backend)
    name = f"{str(dtype).removeprefix('torch.')}{', UNet compiled' if compiled else ''}"
    yield {"pipeline": name, "steps": bench.steps, **plain.latency(pipeline, bench.config, bench.device, bench.steps)}


def memory(bench: Bench) -> Iterator[Row]:
    with bench.edits.switched(OFF):
        yield from bench.edits.memory(2)


def throughput(bench: Bench) -> Iterator[Row]:
    """Measure without compilation: each size of a batch would take a minute or more."""
    counts = COUNTS[:2] if bench.tiny else COUNTS
    with bench.edits.switched(SpeedConfig(channels_last=True)):
        yield from bench.edits.throughput(bench.steps, counts)


def training_steps(bench: Bench) -> Iterator[Row]:
    bench.free()
    rows = list[Row]()
    try:
        measure = training.measure_on_ray if bench.on_ray else training.measure_in_process
        measure(training.steps_to_measure(bench.tiny), bench.device, rows.append)
    finally:
        yield from rows


PARTS = (
    Part("roofline", roofline, 5),
    Part("edit", plain_edit, 30),
    Part("edit, all switches", compiled_edit, 100),
    Part("diffusers", diffusers_edit, 20),
    Part("edit, switches in turn", switches_in_turn, 30),
    Part("memory", memory, 10),
    Part("throughput", throughput, 20),
    Part("training", training_steps, 60),
    Part("diffusers, compiled", diffusers_compiled, 60),
    Part("edit, more steps", more_steps, 20),
    Part("drift of nano's pictures", drift, 60),
)
"""Parts, the most important first."""


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("gpu.py: torch finds no GPU; write --device cpu --tiny to check the benchmark itself")
    on_ray = args.launcher == "ray" and importlib.util.find_spec("ray") is not None
    dtype = DTYPES[args.precision or ("bf16" if device.type == "cuda" else "fp32")]
    bench = Bench(device, dtype, args.tiny, args.minutes, on_ray)
    chosen = [part for part in PARTS if part.name in args.only]
    path = Path(args.out) / f"{card.name_of(device)}{'-tiny' if args.tiny else ''}.json"
    result = begin(card.name_of(device), args.tiny, str(bench.dtype).removeprefix("torch."), args.minutes)
    run(bench, chosen, result, path)
    print(json.dumps({"out": str(path), "goals": result["goals"], "left_out": result["left_out"]}))
    return 0


def run(bench: Bench, parts: Sequence[Part], result: dict[str, Any], path: Path) -> None:
    """Run parts in order until the time is over; results are written after every row."""
    handlers = {number: signal.signal(number, _cut_off) for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT)}
    signal.setitimer(signal.ITIMER_REAL, max(bench.seconds_left, 0.001))
    part = parts[0]
    try:
        for part in parts:
            if not bench.tiny and bench.seconds_left < part.least_s:
                result["left_out"][part.name] = "no time left"
                continue
            run_part(part, bench, result, path)
    except CutOff:
        result["left_out"] |= {each.name: "cut off" for each in parts[parts.index(part) :]}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        write(result, path)


def run_part(part: Part, bench: Bench, result: dict[str, Any], path: Path) -> None:
    """Run one part; its error, such as a card without the memory, is written down and ends no other."""
    say(f"{part.name} ({bench.seconds_left:.0f} s left)")
    rows = result["parts"].setdefault(part.name, [])
    try:
        for row in part.run(bench):
            rows.append(row)
            write(result, path)
            say("  " + ", ".join(f"{name} {cell(value)}" for name, value in row.items()))
    except Exception as error:
        say(f"  failed: {error}")
        result["left_out"][part.name] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def write(result: dict[str, Any], path: Path) -> None:
    """Write the results as JSON, and beside it as a page, each at once."""
    page = to_markdown(result)
    path.parent.mkdir(parents=True, exist_ok=True)
    for target, text in ((path, json.dumps(result, indent=1) + "\n"), (path.with_suffix(".md"), page)):
        partial = target.with_name(f"{target.name}.part")
        partial.write_text(text)
        os.replace(partial, target)


def _cut_off(*_: object) -> None:
    raise CutOff


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda or cpu (default: %(default)s)")
    parser.add_argument("--precision", choices=sorted(DTYPES), help="of the edits (default: bf16 on cuda, fp32 on cpu)")
    parser.add_argument("--tiny", action="store_true", help="small sizes and few steps, to check the benchmark itself")
    parser.add_argument("--minutes", type=float, default=5, help="time of the run (default: %(default)s)")
    names, default = [part.name for part in PARTS], [part.name for part in PARTS if part.run is not drift]
    parser.add_argument("--only", nargs="+", choices=names, default=default, help="parts (default: all but the drift)")
    parser.add_argument("--launcher", choices=("ray", "none"), default="ray", help="of the training steps")
    parser.add_argument("--out", default="results/gpu", help="folder of CARD.json and CARD.md (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
