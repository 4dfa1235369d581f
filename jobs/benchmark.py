"""Benchmark editors: `python jobs/benchmark.py [--weights FOLDER] [--rows copy,ip2p,full] [--edits 500] ...`.

Edits held-out scenes by split and family, judges them with the scene reader, and compares the last row with bars.
Rows: `target` (the scene reader's own accuracy, always included), `copy` (returns the source), `vae` (the target after
the VAE: the upper bound of all that sample its latents), another system of docs/evaluation.md (`magicbrush=FOLDER`), or
any other: the pipeline in --weights, or in FOLDER of `NAME=FOLDER`. A folder without a VLM, or a row called `ip2p`,
is a UNet conditioned on CLIP's text states, as InstructPix2Pix; `ip2p_plain` reads instructions that name every object.
`NAME=FOLDER@none` hides all regions from the VLM, `@true` gives it the scene's true ones. Edited pictures are cached in
$FIREEDIT_HOME/benchmark by weights and settings, so an interrupted run can be resumed; the verdict on every edit is
written there too.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import argparse
import json
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from fireedit.jobs.evaluation.cases import FAMILIES, SPLITS
from fireedit.jobs.evaluation.editors import REGION_SOURCES, Changes, EditorError, parse_rows
from fireedit.jobs.evaluation.judges import Judges
from fireedit.jobs.evaluation.report import markdown, summary
from fireedit.jobs.evaluation.results import BenchmarkConfig, compact
from fireedit.jobs.evaluation.run import Benchmark, Contestant
from fireedit.models.model import NANO, preset
from fireedit.models.settings import PaintSettings, add_setting_flags, setting_fields, setting_flags
from fireedit.platform import storage
from fireedit.platform.scenes import assets


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    try:
        print(json.dumps(run(args), allow_nan=False))
    except (EditorError, FileNotFoundError, assets.MissingAssetsError) as error:
        sys.exit(f"benchmark.py: {error}")


def run(args: argparse.Namespace) -> dict[str, object]:
    """Run the benchmark and write benchmark.md, benchmark.json, sheets and galleries; return the summary."""
    began, sizes = time.monotonic(), preset("nano")
    changes, names = _changes(args), parse_rows(args.rows, args.weights, args.regions)
    config = BenchmarkConfig(
        splits=_names("splits", args.splits, SPLITS),
        families=_names("families", args.families, FAMILIES),
        edits=args.edits,
        sessions=args.sessions,
        side=sizes.vae.sample_size,
    )
    judges = Judges.load(args.judges, args.device)
    contestants = [Contestant.make(name, sizes, changes, args.device) for name in names]
    results = Benchmark(config, contestants, judges, args.out, args.home).run()
    (args.out / "benchmark.md").write_text(markdown(results, judges, _command(args)))
    (args.out / "benchmark.json").write_text(compact(results.as_json()) + "\n")
    return {"out": str(args.out), **summary(results), "seconds": round(time.monotonic() - began, 1)}


def _changes(args: argparse.Namespace) -> Changes:
    """Collect the sampler settings of the command line; checks their ranges before any weights are loaded."""
    changes = setting_flags(args)
    try:
        PaintSettings().but(**changes)
    except ValueError as error:
        raise EditorError(str(error)) from error
    return changes


def _command(args: argparse.Namespace) -> str:
    """Format the options that determine the figures; folders appear only within --rows."""
    flags = {f"--{name}": getattr(args, name) for name in ("rows", "splits", "edits", "sessions")}
    flags |= {setting.flag: getattr(args, setting.name) for setting in setting_fields()}
    flags["--regions"] = args.regions
    words = [word for flag, value in flags.items() if value is not None for word in (flag, str(value))]
    return shlex.join(["python", "jobs/benchmark.py", *words])


def _names(option: str, text: str, known: Sequence[str]) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in known:
            raise EditorError(f"--{option}: {name!r}; write some of {', '.join(known)}")
    return names


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default, device = "default: %(default)s", "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--weights", default="nano", help=f"folder of a pipeline ({default}, which ships)")
    parser.add_argument("--rows", default="target,copy,ip2p,full", help=f"NAME[=FOLDER][@REGIONS], ... ({default})")
    parser.add_argument("--splits", default="unseen_seeds", help=f"of {', '.join(SPLITS)} ({default})")
    parser.add_argument("--families", default=",".join(FAMILIES), help="default: all")
    parser.add_argument("--edits", type=int, default=500, help=f"of each family ({default})")
    parser.add_argument("--sessions", type=int, default=100, help=f"of three edits, in each split ({default})")
    parser.add_argument("--regions", choices=REGION_SOURCES, default="predicted", help=f"input of the VLM ({default})")
    parser.add_argument("--judges", type=Path, default=NANO, help=f"folder with judges/ and vision/ ({default})")
    parser.add_argument("--out", type=Path, default=Path("results/benchmark"), help=default)
    parser.add_argument("--home", default=storage.home(), help=f"cache of edited pictures ({default})")
    parser.add_argument("--device", default=device, help=default)
    add_setting_flags(parser)
    return parser


if __name__ == "__main__":
    main()
