"""Take a run's weights away: `python jobs/export.py RUN --out FOLDER|s3://... [--adapter | --merge-lora]`.

RUN is the name of a run, also of one that still trains, or its address; its newest complete checkpoint is taken. The
result is a pipeline for `FireEditPipeline.from_pretrained`, or with `--adapter` its LoRA alone for
`peft.PeftModel.from_pretrained`.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import argparse
import json
import os
from collections.abc import Sequence
from typing import Any

from fireedit.jobs.training import exporting
from fireedit.jobs.training.exporting import ExportError, SavedRun
from fireedit.models.layers.component import DTYPES
from fireedit.platform import storage
from fireedit.platform.config import RecipeError
from fireedit.platform.console import say
from fireedit.platform.train import checkpoints
from fireedit.platform.train.checkpoints import AVERAGES, CheckpointError


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        report = export(args)
    except (CheckpointError, ExportError, RecipeError, OSError) as error:
        say(f"export: {error}")
        return 1
    print(json.dumps(report))
    return 0


def export(args: argparse.Namespace) -> dict[str, Any]:
    """Write the folder that the command line asks for; returns its report."""
    if storage.contents(args.out):
        raise ExportError(f"--out: {args.out} holds files; write a folder that is empty or not there")
    run, dtype = SavedRun.find(args.run, args.home), DTYPES.get(args.dtype)
    kind, step = run.kind_of(args.weights), checkpoints.step_of(run.checkpoint)
    say(f"{'averages' if kind == AVERAGES else 'last weights'} of step {step} of {run.checkpoint}")
    last = "adapter_config.json" if args.adapter else "model_index.json"
    with storage.writing_folder(args.out, last=last) as folder:
        if args.adapter:
            exporting.save_adapter(run, kind, dtype, folder)
        else:
            exporting.save(exporting.load(run, kind, args.merge_lora, dtype), folder)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    form = "adapter" if args.adapter else "merged pipeline" if args.merge_lora else "pipeline"
    return {
        "out": args.out,
        "kind": form,
        "weights": "averages" if kind == AVERAGES else "last",
        "step": step,
        "bytes": size,
    }


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="name of a run, or the address of its folder")
    parser.add_argument("--out", required=True, help="folder or s3:// address, empty or not there")
    parser.add_argument("--home", default=storage.home(), help="holds runs/NAME (default: %(default)s)")
    parser.add_argument(
        "--weights", choices=("averages", "last"), default="", help="default: averages where the run keeps them"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--adapter", action="store_true", help="the LoRA of the LLM alone, as PEFT saves it")
    form.add_argument("--merge-lora", action="store_true", help="merge the LoRA into the LLM")
    parser.add_argument(
        "--dtype",
        choices=tuple(DTYPES),
        help="of all weights but the detector's (default: trained ones in float32, others as they are)",
    )
    return parser


if __name__ == "__main__":
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # diffusers imports DeepSpeed, which else warns of that on stdout
    sys.exit(main())
