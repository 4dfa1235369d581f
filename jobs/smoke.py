"""Run the whole network at its true size, on random weights: `python jobs/smoke.py [--config paper] [--device cpu]`.

An edit (perceive, understand, paint 2 steps, decode), then forward and backward of each training stage on one sample;
on a CPU the LLM has 4 of its layers there. Every part runs in a process of its own, so that 24 GB of memory are enough
for the paper's 8.9 billion parameters in bfloat16. A CPU without instructions for bfloat16 computes in float32, the
LLM layer by layer. The exit status is 1 if a part fails, gives no numbers, or has other parameters than params.py says.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from fireedit.jobs.params import count
from fireedit.jobs.planning.full_size import EDITING, PARTS, Ran, Trial, run_part
from fireedit.models.model import preset
from fireedit.platform.console import say

GIB = 2**30


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    if wrong := [part for part in args.parts.split(",") if part not in PARTS]:
        sys.exit(f"--parts: found {wrong[0]!r}; write some of {', '.join(PARTS)}")
    in_float32 = args.dtype == "fp32" or (args.dtype == "auto" and args.device == "cpu" and not _has_bfloat16())
    began, sizes = time.monotonic(), count(preset(args.config), stage=3)["modules"]
    parts = dict[str, Any]()
    with tempfile.TemporaryDirectory(prefix="fireedit-smoke-") as folder:
        trial = Trial(
            config=args.config,
            device=args.device,
            dtype=torch.bfloat16,
            folder=Path(folder),
            in_float32=in_float32,
        )
        say(f"{'part':11s} {'build':>7s} {'run':>7s} {'peak':>8s}  outputs")
        for part in args.parts.split(","):
            try:
                ran = _in_own_process(part, trial)
            except (BrokenProcessPool, OSError, RuntimeError, ValueError) as error:
                say(f"{part:11s} failed: {error or 'its process was killed, perhaps for want of memory'}")
                parts[part] = {"failed": str(error) or type(error).__name__}
                continue
            parts[part] = asdict(ran) | {"as_counted": _as_counted(ran, sizes)}
            say("\n".join(_lines(ran)))
    failed = [part for part, ran in parts.items() if not (ran.get("finite") and ran.get("as_counted"))]
    say("all parts run" if not failed else f"failed: {', '.join(failed)}")
    peak = max((ran.get("peak_bytes", 0) for ran in parts.values()), default=0)
    report = {"config": args.config, "device": args.device, "dtype": "float32" if in_float32 else "bfloat16"}
    report |= {"peak_gib": round(peak / GIB, 2), "failed": failed, "parts": parts}
    print(json.dumps(report | {"seconds": round(time.monotonic() - began, 1)}))
    return int(bool(failed))


def _in_own_process(part: str, trial: Trial) -> Ran:
    """Run a part in a fresh process, which gives all its memory back.

    Raises:
        BrokenProcessPool: the process was killed.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(run_part, part, trial).result()


def _as_counted(ran: Ran, sizes: dict[str, Any]) -> bool:
    """Compare the parameters of an edit's components with those of jobs/params.py."""
    if ran.part not in EDITING:
        return True
    return all(parameters == sizes[name]["parameters"] for name, parameters in ran.parameters.items())


def _lines(ran: Ran) -> Iterator[str]:
    outputs = ", ".join(f"{name} {shape}" for name, shape in ran.outputs.items())
    finite = "" if ran.finite else "  NOT FINITE"
    yield f"{ran.part:11s} {ran.build_s:6.1f}s {ran.run_s:6.1f}s {ran.peak_bytes / GIB:5.1f} GiB  {outputs}{finite}"
    sizes = [f"{name} {parameters / 1e6:,.1f} M {ran.dtypes[name]}" for name, parameters in ran.parameters.items()]
    yield f"{'':11s} {', '.join(sizes)}"
    if ran.figures:
        losses = [f"{name} {value:.3f}" for name, value in ran.figures.items() if not name.endswith("_bytes")]
        step, planned = (ran.figures[name] / GIB for name in ("step_bytes", "planned_bytes"))
        yield f"{'':11s} {', '.join(losses)}; the step took {step:.2f} GiB, plan.py says {planned:.2f} GiB"


def _has_bfloat16() -> bool:
    """Return whether this CPU multiplies bfloat16."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = "default: %(default)s"
    parser.add_argument("--config", choices=["paper", "nano"], default="paper", help=f"sizes ({default})")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help=default)
    parser.add_argument("--parts", default=",".join(PARTS), metavar="PART,PART,...", help=default)
    computed = "of computation (default: bf16, fp32 on a CPU without it)"
    parser.add_argument("--dtype", choices=["auto", "bf16", "fp32"], default="auto", help=computed)
    return parser


if __name__ == "__main__":
    sys.exit(main())
