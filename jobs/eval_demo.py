"""Show every evaluation small, in three minutes on two CPU cores: `make eval-demo`.

Draws tiny sets in the published formats, evaluates the shipped small model on them and on drawn scenes, sweeps a
setting, and makes a comparison and a study of the results. Every command is printed, to be run again with real folders.
Backbones are published and do not ship, so only measures without them are in the tables of published sets.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import argparse
import contextlib
import io
import json
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fireedit.jobs import compare, evaluate, study, sweep
from fireedit.platform import storage
from fireedit.platform.console import say
from fireedit.platform.scenes.world import WORLDS
from fireedit.platform.scenes.writers import emu_edit, magicbrush, reasonedit
from fireedit.platform.train.progress import duration

SIDE = 64
"""Side of all pictures, pixels."""
CHECKOUT = Path(__file__).resolve().parents[1]
NANO = ("--editor", "fireedit=nano", "--partial", "--device", "cpu", "--cpus", "0.25", "--replicas", "1")


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    out, began = args.out.expanduser().resolve(), time.monotonic()
    try:
        storage.begin_folder(str(out), ".eval_demo")
    except OSError as error:
        sys.exit(f"--out: {error}")
    sets, found = write_sets(out / "sets"), dict[str, Any]()
    choice = ["--families", "remove,recolor,style", "--edits", "2", "--sessions", "1", "--batch", "8"]
    drawn = ["--set", "scenes", *choice, "--beside", "copy", "--out", str(out / "scenes")]
    found["scenes"] = run(evaluate.main, "evaluate.py", *NANO, *drawn)
    for name, folder in sets.items():
        words = ["--set", name, "--data", str(folder), "--batch", "4", "--out", str(out / name)]
        found[name] = run(evaluate.main, "evaluate.py", *NANO, *words)
    brush = ["--set", "magicbrush-test", "--data", str(sets["magicbrush-test"])]
    words = ["--vary", "num_inference_steps=1,4", "--first", "2", *brush, "--out", str(out / "sweep")]
    found["sweep"] = run(sweep.main, "sweep.py", *NANO, *words)
    pictures = ["--pictures", f"fireedit={out / 'magicbrush-test' / 'pictures'}", "--out", str(out / "compared")]
    found["compared"] = run(compare.main, "compare.py", *brush, *pictures)
    methods = [f"fireedit={out / 'scenes'}", f"copy={out / 'scenes' / 'beside' / 'copy'}"]
    asked = ["--evaluations", *methods, "--questions", "3", "--out", str(out / "study")]
    found["study"] = run(study.main, "study.py", "make", *asked)
    seconds = time.monotonic() - began
    say(f"\ntables    {out}/*/evaluation.md\ngallery   {out / 'scenes' / 'unseen_seeds-gallery.png'}")
    say(f"sweep     {out / 'sweep' / 'sweep.png'}\ncompared  {out / 'compared' / 'index.html'}")
    say(f"took {duration(seconds)}")
    print(json.dumps({"out": str(out), "found": found, "seconds": round(seconds, 1)}))
    return 0


def write_sets(folder: Path) -> dict[str, Path]:
    """Draw a few held-out edits in the format of each published set; returns the folders by set."""
    world = WORLDS["unseen_seeds"]
    magicbrush.write_folder(folder / "magicbrush", world.seeds[:3], SIDE, world)
    emu_edit.write(folder / "emu-edit", world.seeds[:24], SIDE, world, generations=True)
    reasonedit.write_benchmark(folder / "reasonedit", world.seeds[:6], SIDE, world)
    return {
        "magicbrush-test": folder / "magicbrush",
        "emu-edit": folder / "emu-edit",
        "reasonedit": folder / "reasonedit",
    }


def run(job: Callable[[Sequence[str]], int], script: str, *words: str) -> Any:
    """Run a job in this process, and say how it is started from a shell; returns what it prints.

    Raises:
        SystemExit: it failed.
    """
    say(f"\n$ python jobs/{script} {shlex.join(words)}")
    printed, began = io.StringIO(), time.monotonic()
    with contextlib.redirect_stdout(printed):
        status = job(words)
    if status:
        sys.exit(status)
    say(f"  {duration(time.monotonic() - began)}")
    return json.loads(printed.getvalue().splitlines()[-1])


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=CHECKOUT / "out" / "eval-demo", help="default: out/eval-demo")
    return parser


if __name__ == "__main__":
    sys.exit(main())
