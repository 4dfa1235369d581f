"""Evaluate an editor on a published set of edits by the set's own protocol, or on drawn scenes whose truth is known.

python jobs/evaluate.py --editor fireedit=FOLDER --set magicbrush-test --data FOLDER --backbones FOLDER --out DIR
python jobs/evaluate.py --editor fireedit=nano --beside copy instruct-pix2pix=nano --set scenes --edits 200 --out DIR

Replicas of the editor paint DIR/pictures in Ray Data, every picture once: an interrupted evaluation goes on when it is
started again. The pictures are then measured, and the tables written to DIR/evaluation.md and evaluation.json.
`--editor folder=PICTURES` measures pictures made elsewhere, which are named as those in DIR/pictures.
`--beside` evaluates other editors into DIR/beside first, `--baseline` takes evaluations that were made before: their
rows and the paired differences to them stand in the same tables.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any, get_args

import torch

from fireedit.jobs.evaluation.cases import FAMILIES
from fireedit.jobs.evaluation.cases import SPLITS as SCENE_SPLITS
from fireedit.jobs.evaluation.evaluations import FOLDER, SCENES, SETS, EvaluationConfig, evaluate
from fireedit.jobs.evaluation.painting import PaintingError, Regions, Replicas
from fireedit.jobs.evaluation.sets.emu_edit import SPLITS
from fireedit.jobs.evaluation.sets.scenes import SceneChoice
from fireedit.models.editors.editor import EDITORS
from fireedit.models.settings import add_setting_flags, setting_flags
from fireedit.platform import flags, storage
from fireedit.platform.console import say


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    began = time.monotonic()
    try:
        tables = evaluate(config_of(args))
    except (OSError, ValueError, PaintingError) as error:
        say(f"evaluate.py: {error}")
        return 1
    say(f"tables: {storage.join(args.out, 'evaluation.md')}")
    print(json.dumps({"out": args.out, "tables": tables, "seconds": round(time.monotonic() - began, 1)}))
    return 0


def config_of(args: argparse.Namespace) -> EvaluationConfig:
    """Collect what the command line asks for."""
    on_gpu = args.device.startswith("cuda")
    replicas = Replicas(
        most=args.replicas,
        cpus=args.cpus,
        gpus=args.gpus if args.gpus is not None else float(on_gpu),
        batch=args.batch or (8 if on_gpu else 1),
    )
    return EvaluationConfig(
        editor=args.editor,
        set=args.set,
        data=args.data and storage.absolute(args.data),
        out=storage.absolute(args.out),
        backbones=args.backbones and storage.absolute(args.backbones),
        baselines=[storage.absolute(folder) for folder in args.baseline],
        beside=args.beside,
        emu_set=args.emu_set,
        against=args.against,
        drawn=_scene_choice(args),
        judges=args.judges if args.judges == "nano" else storage.absolute(args.judges),
        regions=args.regions,
        first=args.first,
        partial=args.partial,
        seed=args.seed,
        device=args.device,
        replicas=replicas,
        changes=setting_flags(args),
    )


def _scene_choice(args: argparse.Namespace) -> SceneChoice:
    """Collect the edits that the flags of `_add_scene_flags` name."""
    splits, families = tuple(args.splits.split(",")), tuple(args.families.split(","))
    return SceneChoice(splits=splits, families=families, edits=args.edits, sessions=args.sessions)


def _add_scene_flags(parser: argparse.ArgumentParser) -> Any:
    """Add the flags that choose scenes to draw; returns their group."""
    group, default = parser.add_argument_group(SCENES), "default: %(default)s"
    splits = f"of {', '.join(SCENE_SPLITS)} ({default})"
    group.add_argument("--splits", default="unseen_seeds", metavar="NAME,NAME,...", help=splits)
    group.add_argument("--families", default=",".join(FAMILIES), metavar="NAME,NAME,...", help="default: all")
    group.add_argument("--edits", type=flags.whole, default=200, help=f"of each family ({default})")
    group.add_argument("--sessions", type=flags.whole, default=50, help=f"of three edits, in each split ({default})")
    return group


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default, device = "default: %(default)s", "cuda" if torch.cuda.is_available() else "cpu"
    editors = f"{', '.join(EDITORS)}, or {FOLDER}PICTURES"
    parser.add_argument("--editor", required=True, metavar="NAME=FOLDER", help=editors)
    parser.add_argument("--set", required=True, choices=SETS)
    parser.add_argument("--data", default="", help=f"folder of the set, as published; not of {SCENES}")
    parser.add_argument("--out", required=True, help="folder for pictures and tables, local or s3://")
    parser.add_argument("--backbones", default="", help="folder with clip-vit-base-patch32, dino-vits16, lpips, ...")
    parser.add_argument("--beside", nargs="+", default=[], metavar="NAME=FOLDER", help="other editors, evaluated first")
    parser.add_argument("--baseline", nargs="+", default=[], metavar="DIR", help="--out of other editors")
    parser.add_argument("--emu-set", choices=SPLITS, default="3589", help=f"part of emu-edit ({default})")
    parser.add_argument("--against", choices=["generations"], default="", help="of emu-edit: also its own pictures")
    parser.add_argument("--first", type=flags.whole, default=0, help="number of edits and sessions (default: all)")
    parser.add_argument("--partial", action="store_true", help="evaluate a set that is not complete")
    parser.add_argument("--seed", type=flags.whole, default=0, help=f"of the noise of every picture ({default})")
    parser.add_argument("--device", default=device, help=default)
    drawn = _add_scene_flags(parser)
    drawn.add_argument("--judges", default="nano", help=f"folder with judges/ and vision/ ({default})")
    drawn.add_argument("--regions", choices=get_args(Regions), default="predicted", help="of fireedit's VLM")
    pool = parser.add_argument_group("replicas")
    pool.add_argument("--replicas", type=flags.count, default=64, help=f"most at a time, as there is room ({default})")
    pool.add_argument("--cpus", type=flags.above_zero, default=1.0, help=f"logical CPUs of each ({default})")
    pool.add_argument("--gpus", type=flags.from_zero, help="of each (default: 1 on cuda)")
    pool.add_argument("--batch", type=flags.count, help="pictures painted together (default: 8 on cuda, else 1)")
    add_setting_flags(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
