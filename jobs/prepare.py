"""Prepare corpora for training.

`prepare.py scenes` writes procedural scenes in the formats of the published corpora. `prepare.py shards` converts
corpora, these or the real ones, to the checked shards that training reads, with `--format pairs` edit pairs of your
own. A command that is repeated keeps what is finished.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import argparse
import json
from collections.abc import Sequence
from typing import Any

from fireedit.jobs.training.encoders import check_encoders, encode_shards
from fireedit.platform import config, storage
from fireedit.platform.cluster import ResourcesError, start_ray
from fireedit.platform.console import say
from fireedit.platform.data import preparation
from fireedit.platform.data.catalog import CORPORA, SCENE_FORMS, TRAINING_CORPORA, UnknownCorpusError, find
from fireedit.platform.data.conversion import ConversionConfig, TooManyBadRowsError
from fireedit.platform.data.corpora.pairs import parse_columns
from fireedit.platform.data.corpora.rows import CorpusError
from fireedit.platform.data.encoding import EncodersConfig
from fireedit.platform.data.preparation import PrepareError
from fireedit.platform.data.shards import ShardsError
from fireedit.platform.flags import count
from fireedit.platform.scenes.assets import MissingAssetsError
from fireedit.platform.scenes.world import WORLDS

INPUT_ERRORS = (
    config.RecipeError,
    PrepareError,
    MissingAssetsError,
    UnknownCorpusError,
    CorpusError,
    ShardsError,
    TooManyBadRowsError,
)


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    names = args.corpora.split(",")
    try:
        if args.command == "scenes":
            report = preparation.prepare_scenes(args.out, names, args.rows, args.size, args.seed, args.world)
        else:
            report = shards(args, names)
    except (*INPUT_ERRORS, ResourcesError, OSError) as error:
        say(f"prepare: {error}")
        return 1
    print(json.dumps(report))
    return 0


def shards(args: argparse.Namespace, names: list[str]) -> dict[str, Any]:
    """Convert the corpora to shards and, with --encode, encode these."""
    encode = args.encode.split(",") if args.encode else []
    check_encoders(encode, args.model, args.weights)
    encoders = {"count": args.encoders, "gpus": args.gpus, "cpus_per_task": args.cpus_per_task}
    encoders_config = config.parse(EncodersConfig, encoders, where="shards")
    keys = ("size", "quality", "max_bad_fraction", "cpus_per_task")
    conversion = config.parse(ConversionConfig, {key: getattr(args, key) for key in keys}, where="shards")
    columns, corpora = parse_columns(args.columns), storage.join(storage.home(), "corpora")
    if columns and args.format != "pairs":
        raise PrepareError("--columns are read with --format pairs only; write that, or leave them out")
    if args.format == "pairs":
        preparation.require_own_name(args.corpora)
    else:
        for name in names:
            find(name)
    start_ray()
    if args.format == "pairs":
        source = args.source or storage.join(corpora, args.corpora)
        report = preparation.prepare_pairs(source, args.out, args.corpora, columns, args.split, conversion)
    else:
        report = preparation.prepare_shards(args.source or corpora, args.out, names, args.split, conversion)
    if encode:
        report |= encode_shards(args.out, names, encode, args.model, args.weights, encoders_config)
    return report


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    home, training, default = storage.home(), ",".join(TRAINING_CORPORA), " (default: %(default)s)"

    scenes = commands.add_parser("scenes", help="write procedural scenes in the formats of published corpora")
    scenes.add_argument("--out", default=storage.join(home, "corpora"), help="one folder per corpus" + default)
    scenes.add_argument("--rows", type=count, default=5000, help="scenes per corpus" + default)
    scenes.add_argument("--size", type=count, default=64, help="pixels a side" + default)
    scenes.add_argument("--seed", type=int, default=0, help="another number draws other scenes" + default)
    scenes.add_argument("--corpora", default=training, help=f"of {','.join(SCENE_FORMS)}" + default)
    scenes.add_argument("--world", choices=list(WORLDS), default="train", help="all others are held out" + default)

    shards = commands.add_parser("shards", help="convert corpora to the checked shards that training reads")
    shards.add_argument("--source", default="", help=f"holds one folder per corpus (default: {home}/corpora), or pairs")
    shards.add_argument("--out", default=storage.join(home, "shards"), help="one folder per corpus goes here" + default)
    shards.add_argument("--corpora", default=training, help=f"of {','.join(CORPORA)}; of pairs, a new name" + default)
    shards.add_argument("--format", choices=("published", "pairs"), default="published", help="of the files" + default)
    shards.add_argument("--columns", default="", help="of pairs: source=NAME,instruction=NAME,target=NAME,mask=NAME")
    shards.add_argument("--split", default="train", help="as the corpus calls it" + default)
    shards.add_argument("--size", type=count, default=512, help="most pixels of the shorter side" + default)
    shards.add_argument("--quality", type=count, default=95, help="of re-encoded JPEGs" + default)
    shards.add_argument("--max-bad-fraction", type=float, default=0.01, help="more bad rows stop the job" + default)
    shards.add_argument("--cpus-per-task", type=float, default=1.0, help="logical CPUs of a task" + default)
    shards.add_argument("--encode", default="", help="latents, text or both with a comma: stored with the shards")
    shards.add_argument("--model", choices=("nano", "paper"), default="paper", help="whose sizes" + default)
    shards.add_argument("--weights", default="", help="nano, or a pipeline folder with VAE and text encoder")
    shards.add_argument("--encoders", type=count, default=1, help="encoders at a time" + default)
    shards.add_argument("--gpus", type=float, default=0.0, help="GPUs of each encoder" + default)
    return parser


if __name__ == "__main__":
    sys.exit(main())
