"""Train the small model from nothing within a time limit: `python jobs/nano.py --minutes M [--out DIR]`.

Trains text encoder, vision, LLM, painter and judge, then stages 1 to 3 through Ray Train, and edits a few held-out
images. Parts that do not depend on each other train side by side. OUT/nano becomes a pipeline's folder with figures
and sheets beside the weights; OUT/nano.tar.* are the same in small files (`cat nano.tar.* | tar x`), rewritten as parts
finish. The same command resumes from what OUT holds. Without Ray it ends after painter and judge.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import argparse
import importlib.util
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fireedit.jobs.training.nano_folder import copy_tokenizers
from fireedit.jobs.training.nano_plan import ON_RAY, PARTS, NanoPlan
from fireedit.jobs.training.timebox import TimeBox, archive
from fireedit.platform.console import say

SLACK_S, TINY_SLACK_S = 60.0, 600.0
"""Slack of the tasks, also of a trial run: on a slow machine they take longer to start than to train."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = build_parser()
    args = parser.parse_args(argv)
    unknown = sorted(set(args.parts.split(",")) - set(PARTS))
    if unknown:
        parser.error(f"--parts: {unknown[0]!r}; write some of {', '.join(PARTS)}")
    print(json.dumps(run(args)))


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Train the chosen parts; returns their reports."""
    device = ("cuda" if torch.cuda.is_available() else "cpu") if args.device == "auto" else args.device
    out = args.out.absolute() / "nano"
    plan = NanoPlan(
        out=out, device=device, minutes=args.minutes, init_from=args.init_from, overrides=args.set, tiny=args.tiny
    )
    copy_tokenizers(plan.out, plan.init_from)
    tasks = plan.tasks(_runnable(args.parts.split(",")))
    environment = {"FIREEDIT_HOME": str(plan.home), "TOKENIZERS_PARALLELISM": "false"}
    environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"} if device == "cpu" else {}
    slack_s = TINY_SLACK_S if args.tiny else SLACK_S
    box = TimeBox(tasks, 60 * args.minutes, environment, out.parent / "logs", slack_s)
    say(f"{args.minutes:g} minutes on {device}\n{box.plan()}")
    archives = args.archive or args.out
    reports = box.run(lambda: say(f"wrote {len(archive(plan.out, archives))} files of {archives}/nano.tar"))
    edits = _edit_held_out(plan)
    archive(plan.out, archives)
    for name, report in reports.items():
        samples = report.get("samples", report.get("step"))
        say(f"{name:12s} {report.get('error') or report.get('stopped') or f'{samples} samples'}")
    minutes = round(box.now / 60, 1)
    return {"out": str(plan.out), "minutes": minutes, "device": device, "parts": reports, "edits": edits}


def _runnable(names: Sequence[str]) -> list[str]:
    """Sort the chosen parts by their order of training; without Ray leave out those that need it."""
    parts = [part for part in PARTS if part in names]
    if importlib.util.find_spec("ray") is None and set(parts) & set(ON_RAY):
        say("Ray is not installed: the stages are left out; pip install 'ray[train,data]' and run this again for them")
        parts = [part for part in parts if part not in ON_RAY]
    return parts


def _edit_held_out(plan: NanoPlan) -> dict[str, float]:
    """Edit some held-out images and save a sheet of them; returns their figures, none without a painter."""
    if not (plan.out / "unet" / "config.json").is_file():
        return {}
    from fireedit.jobs.evaluation.quick import quick

    figures, sheet = quick(plan.out, 1 if plan.tiny else 8, plan.device)
    (plan.out / "figures").mkdir(exist_ok=True)
    sheet.save(plan.out / "figures" / "edits.png")
    return figures


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=240.0, help="length of the whole run (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/nano"), help="default: %(default)s")
    parser.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto")
    parser.add_argument("--parts", default=",".join(PARTS), help="only these (default: all)")
    parser.add_argument("--init-from", type=Path, help="folder of a small model that parts start from, as models/nano")
    parser.add_argument("--archive", type=Path, help="folder of nano.tar.* (default: OUT)")
    parser.add_argument("--set", action="append", default=[], metavar="PART:key=value", help="for one part; repeatable")
    parser.add_argument("--tiny", action="store_true", help="hardly any data: tries the command out")
    return parser


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
