"""Make a pipeline of published checkpoints, for `jobs/train.py --config paper init_from=OUT` to start from.

python jobs/convert.py --groma DIR --llm DIR --dinov2 DIR --clip DIR --instruct-pix2pix DIR --out DIR

Groma's region encoder was trained with one LLM and understands no other: groma-7b-pretrain goes with vicuna-7b-v1.5,
groma-7b-finetune with the LLM in its own folder only (give that folder to --groma and to --llm).
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

from fireedit.jobs.training.published import PublishedPaths, convert, parameter_count
from fireedit.models.checkpoint_files import CheckpointFileError
from fireedit.models.model import preset
from fireedit.models.weights import WeightsError
from fireedit.platform import storage
from fireedit.platform.console import say


def main(argv: Sequence[str] | None = None) -> int:
    args = vars(build_parser().parse_args(argv))
    out, sizes, seed = (args.pop(name) for name in ("out", "config", "seed"))
    started = time.monotonic()
    try:
        pipeline = convert(PublishedPaths(**args), preset(sizes), seed)
    except (CheckpointFileError, WeightsError) as error:
        say(f"convert: {error}")
        return 1
    say(f"writing {out}")
    with storage.writing_folder(out, last="model_index.json") as folder:
        pipeline.save_pretrained(folder)
    counts = {name: parameter_count(module) for name, module in pipeline.model.named_children()}
    seconds = round(time.monotonic() - started, 1)
    print(json.dumps({"out": out, "parameters": sum(counts.values()), "parts": counts, "seconds": seconds}))
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in dataclasses.fields(PublishedPaths):
        flag, required = f"--{field.name.replace('_', '-')}", field.default is dataclasses.MISSING
        metavar = "DIR" if required else "FILE"
        parser.add_argument(flag, type=Path, required=required, metavar=metavar, help=field.metadata["help"])
    parser.add_argument("--out", required=True, metavar="DIR", help="a folder, or s3://bucket/folder")
    parser.add_argument("--config", choices=["paper", "nano"], default="paper", help="sizes (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the fresh weights (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
