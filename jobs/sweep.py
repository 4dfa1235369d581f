"""Evaluate an editor at several values of a setting, or with several weights: tables, a plot, a grid of pictures.

python jobs/sweep.py --vary image_guidance_scale=1,1.5,2,3,5,7.5 --editor fireedit=FOLDER --first 20 --out DIR
    --set magicbrush-test --data FOLDER --backbones FOLDER
python jobs/sweep.py --vary weights=full=FOLDER,no-tati=FOLDER --editor fireedit --out DIR ...

Writes DIR/sweep.csv, sweep.md, sweep.png and grid.png, and an evaluation of each value below DIR. A sweep that was
stopped goes on when it is started again.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import argparse
import json
import time
from collections.abc import Sequence

from fireedit.jobs import evaluate
from fireedit.jobs.evaluation.painting import PaintingError
from fireedit.jobs.evaluation.sweeping import SEED, WEIGHTS, parse_sweep, run_sweep
from fireedit.models.settings import setting_fields
from fireedit.platform.console import say
from fireedit.platform.flags import whole


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    began = time.monotonic()
    try:
        sweep, config = parse_sweep(args.vary), evaluate.config_of(args)
        rows = run_sweep(sweep, config, args.shown)
    except (OSError, ValueError, PaintingError) as error:
        say(f"sweep.py: {error}")
        return 1
    seconds = round(time.monotonic() - began, 1)
    print(json.dumps({"out": config.out, "name": sweep.name, "rows": rows, "seconds": seconds}))
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Add a sweep's flags to those of an evaluation."""
    parser = evaluate.build_parser()
    parser.description = __doc__
    names = ", ".join([*(setting.name for setting in setting_fields()), SEED])
    text = f"one of {names}; or {WEIGHTS}=LABEL=FOLDER,..., folders of weights in the place of that of --editor"
    group = parser.add_argument_group("sweep")
    group.add_argument("--vary", required=True, metavar="NAME=VALUE,VALUE,...", help=text)
    group.add_argument("--shown", type=whole, default=6, help="edits in the grid (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
