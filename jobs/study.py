"""Preference study of section 4 of the paper's supplement: which of several editors' pictures people find best.

`study.py make` draws questions from evaluations of one set, `study.py serve` shows them to participants, whom
`study.py invite` makes links for, and `study.py report` counts the votes.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvicorn

from fireedit.jobs.studying.app import OPEN, default_votes, open_app
from fireedit.jobs.studying.preferences import count_preferences
from fireedit.jobs.studying.question_draw import ASPECTS, make_study
from fireedit.jobs.studying.study_folder import StudyError, read_study
from fireedit.jobs.studying.study_report import MARKDOWN, save_report
from fireedit.jobs.studying.votes import Votes
from fireedit.platform.console import say
from fireedit.platform.flags import count, port


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    command = {"make": make, "invite": invite, "serve": serve, "report": report}[args.command]
    try:
        answer = command(args)
    except (OSError, StudyError) as error:
        say(f"study.py: {error}")
        return 1
    print(json.dumps(answer))
    return 0


def make(args: argparse.Namespace) -> dict[str, Any]:
    """Draw the questions."""
    study = make_study(args.out, args.evaluations, args.questions, args.seed, args.aspects)
    say(f"{len(study.questions)} questions, {len(study.methods)} methods: {args.out}")
    return {"out": args.out, "set": study.set, "questions": len(study.questions), "methods": study.methods}


def invite(args: argparse.Namespace) -> dict[str, Any]:
    """Make links for participants."""
    links = [f"{args.url.rstrip('/')}/s/{token}" for token in _votes(args).invite(args.count)]
    say("\n".join(links))
    return {"links": links}


def serve(args: argparse.Namespace) -> dict[str, Any]:
    """Serve the study until it is interrupted; addresses of participants are not logged."""
    app = open_app(args.study, args.db, args.open)
    say(f"study: http://{args.host}:{args.port}/s/{OPEN if args.open else 'TOKEN'}")
    uvicorn.run(app, host=args.host, port=args.port, access_log=False, server_header=False, log_level="warning")
    return {"votes": len(_votes(args).all())}


def report(args: argparse.Namespace) -> dict[str, Any]:
    """Count the votes, and write the report."""
    found = count_preferences(read_study(args.study), _votes(args).all())
    answer = save_report(read_study(args.study), found, args.out)
    say(f"report: {args.out / MARKDOWN}")
    return {"out": str(args.out)} | answer


def _votes(args: argparse.Namespace) -> Votes:
    return Votes.open(args.db or default_votes(args.study), read_study(args.study).token)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    default = " (default: %(default)s)"

    made = commands.add_parser("make", help="draw questions from evaluations of several editors on one set")
    made.add_argument("--out", required=True, help="folder of the study, which must be new")
    folders = "--out of evaluate.py, one of each method; NAME=FOLDER names it in the report"
    made.add_argument("--evaluations", required=True, nargs="+", metavar="FOLDER", help=folders)
    made.add_argument("--questions", type=count, default=30, help="number of edits to ask about" + default)
    made.add_argument("--seed", type=int, default=0, help="another number draws other edits" + default)
    made.add_argument("--aspects", nargs="+", default=list(ASPECTS), help="sentences that say what to judge by")

    invited = commands.add_parser("invite", help="make links for participants")
    invited.add_argument("--count", type=count, required=True, help="number of links")
    invited.add_argument("--url", default="http://127.0.0.1:8080", help="where participants find the study" + default)

    served = commands.add_parser("serve", help="show the questions to participants")
    served.add_argument("--host", default="127.0.0.1", help=default[2:-1])
    served.add_argument("--port", type=port, default=8080, help=default[2:-1])
    served.add_argument("--open", type=count, default=0, help="participants that may come by the one link /s/open")

    reported = commands.add_parser("report", help="count the votes")
    reported.add_argument("--out", type=Path, required=True, help="folder for report.md, report.json and shares.png")
    for command in (invited, served, reported):
        command.add_argument("study", type=Path, help="folder that `study.py make` wrote")
        command.add_argument("--db", default="", help="sqlite:///PATH or postgresql://... (default: STUDY/votes.db)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
