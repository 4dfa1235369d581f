"""Make a pipeline of published checkpoints, for `jobs/train.py --config paper init_from=OUT` to start from.

python jobs/convert.py --groma DIR --dinov2 DIR --clip DIR --instruct-pix2pix DIR [--llm DIR] --out DIR

Groma's region encoder was trained with one LLM and understands no other: groma-7b-pretrain goes with vicuna-7b-v1.5,
groma-7b-finetune with the LLM in its own folder only, which is taken where --llm is left out. See docs/weights.md.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import argparse
import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError

from fireedit.jobs.training.published import convert
from fireedit.jobs.training.published_files import PublishedPaths, check_out
from fireedit.models.checkpoint_files import quiet_loading
from fireedit.models.model import FireEditConfig
from fireedit.models.weights import WeightsError
from fireedit.platform import storage
from fireedit.platform.console import say


def main(argv: Sequence[str] | None = None, config: FireEditConfig | None = None) -> int:
    """Convert and print one line of JSON; `config` has sizes other than the paper's."""
    args = vars(build_parser().parse_args(argv))
    out, seed, keep_float32 = args.pop("out"), args.pop("seed"), args.pop("llm_precision") == "saved"
    started = time.monotonic()
    quiet_loading()
    try:
        paths = PublishedPaths(**args)
        check_out(out, paths)
        with storage.writing_folder(out, last="model_index.json") as folder:
            reports = convert(paths, config or FireEditConfig(), folder, seed, keep_float32)
    except (OSError, SafetensorError, WeightsError) as error:
        say(f"convert: {error}")
        return 1
    report = {
        "out": out,
        "parameters": sum(part.parameters for part in reports.values()),
        "parts": {name: dataclasses.asdict(part) for name, part in reports.items()},
        "seconds": round(time.monotonic() - started, 1),
    }
    print(json.dumps(report))
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in dataclasses.fields(PublishedPaths):
        flag, required = f"--{field.name.replace('_', '-')}", field.default is dataclasses.MISSING
        parser.add_argument(flag, type=Path, required=required, metavar="PATH", help=field.metadata["help"])
    parser.add_argument(
        "--out",
        required=True,
        metavar="DIR",
        help="a new folder, or an earlier FireEdit pipeline, here or s3://bucket/folder (its draft is in $TMPDIR)",
    )
    parser.add_argument(
        "--llm-precision",
        choices=("half", "saved"),
        default="half",
        help="of an LLM that is published in float32: half writes it in bfloat16 (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the fresh weights (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
