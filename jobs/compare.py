"""Show editors side by side on a published set, from pictures that jobs/evaluate.py painted.

python jobs/compare.py --set magicbrush-test --data FOLDER --pictures ours=OUT/pictures theirs=OUT2/pictures --out DIR

Writes DIR/edits.png (source, editors and target of each edit), DIR/sessions-N.png (turn by turn) and DIR/index.html, a
page with a slider between source and result.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import replace

from fireedit.jobs.evaluation import comparing
from fireedit.jobs.evaluation.cases import FAMILIES
from fireedit.jobs.evaluation.evaluations import SCENES, SETS, EvaluationConfig, open_edits
from fireedit.jobs.evaluation.sets.evaluation_set import SetError
from fireedit.jobs.evaluation.sets.scenes import SceneChoice
from fireedit.platform import storage
from fireedit.platform.console import say
from fireedit.platform.flags import count, whole


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    out = storage.absolute(args.out)
    try:
        pictures = _folders(args.pictures)
        data = args.data and storage.absolute(args.data)
        each = math.ceil(args.count / len(FAMILIES))
        drawn = SceneChoice(splits=tuple(args.splits.split(",")), edits=each, sessions=args.sessions)
        config = EvaluationConfig(editor="", set=args.set, data=data, out=out, partial=True)
        edits = open_edits(replace(config, drawn=drawn) if args.set == SCENES else config)
        found = comparing.chosen_edits(edits, pictures, args.names)
        sessions = comparing.compared_sessions(edits, pictures)[: args.sessions]
        comparing.write_comparison(out, edits.name, found[: args.count], sessions)
    except (OSError, ValueError) as error:
        say(f"compare.py: {error}")
        return 1
    say(f"page: {storage.join(out, comparing.INDEX)}")
    shown = {"edits": min(len(found), args.count), "sessions": len(sessions)}
    print(json.dumps({"out": out, "editors": list(pictures), **shown}))
    return 0


def _folders(texts: Sequence[str]) -> dict[str, str]:
    """Parse `NAME=FOLDER`.

    Raises:
        SetError: one has no folder, or two have one name.
    """
    pairs = [text.partition("=") for text in texts]
    if wrong := [text for text, (_, _, folder) in zip(texts, pairs, strict=True) if not folder]:
        raise SetError(f"--pictures {wrong[0]}: found no folder; write NAME=FOLDER")
    folders = {name: storage.absolute(folder) for name, _, folder in pairs}
    if len(folders) != len(texts):
        raise SetError(f"--pictures {' '.join(texts)}: two have one name; write another for one of them")
    return folders


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = "default: %(default)s"
    parser.add_argument("--set", required=True, choices=SETS)
    parser.add_argument("--data", default="", help=f"folder of the set, as published; not of {SCENES}")
    parser.add_argument("--splits", default="unseen_seeds", metavar="NAME,NAME,...", help=f"of {SCENES} ({default})")
    parser.add_argument("--pictures", required=True, nargs="+", metavar="NAME=FOLDER", help="of each editor")
    parser.add_argument("--out", required=True, help="folder for sheets and page, local or s3://")
    parser.add_argument("--count", type=count, default=12, help=f"edits to show ({default})")
    parser.add_argument("--sessions", type=whole, default=4, help=f"sessions to show ({default})")
    parser.add_argument("--names", nargs="+", default=[], help="of edits, such as 40000/40000_1 (default: the first)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
