"""Run all of FireEdit once, small: corpora, three training jobs on Ray, serving, and edits of images over HTTP.

The stages start from fresh weights and are trained for a minute or two, which shows that they learn. The endpoint
serves the small model that ships, which was trained for longer by the same jobs.

`make demo` runs it and leaves Ray and the endpoint up; `make stop` (`--stop`) ends these only.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fireedit.jobs.demonstration import steps
from fireedit.platform import storage
from fireedit.platform.cluster import HOST, LocalRay, free_port, read_variables
from fireedit.platform.console import say, show
from fireedit.platform.train.progress import duration


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    out = args.out.expanduser().resolve()
    ray = LocalRay(out / "ray.json")
    was_running = ray.stop()
    if args.stop:
        say("the demo's Ray is stopped" if was_running else "no demo is running")
        return
    started = time.monotonic()
    try:
        storage.begin_folder(str(out), ".demo")
    except OSError as error:
        sys.exit(f"--out: {error}")
    try:
        report = demo(ray, out, args.rows, args.stages, args.steps)
    except BaseException:
        ray.keep_logs(out / "logs" / "ray")
        ray.stop()
        raise
    report["seconds"] = round(time.monotonic() - started)
    _say_where(report)
    print(json.dumps(report))


def demo(ray: LocalRay, out: Path, rows: int, stages: Sequence[int], training_steps: int) -> dict[str, Any]:
    """Run every step in order; full outputs go to out/logs."""
    home, logs = out / "home", out / "logs"
    logs.mkdir(parents=True)
    environment = read_variables(steps.RAY_ENVIRONMENT) | {"FIREEDIT_HOME": str(home)}
    _timed("Ray with its dashboard", lambda: ray.start(logs / "ray.log", environment))
    _timed(f"corpora, {rows} scenes each", lambda: steps.prepare(home / "corpora", rows, logs / "prepare.log"))
    lengths = {1: training_steps, 2: training_steps, 3: max(1, training_steps // 3)}  # stage 3's take longest
    trained = [steps.train(ray, stage, lengths[stage], logs / f"stage{stage}.log") for stage in stages]
    endpoint = f"http://{HOST}:{free_port(8000)}"
    _timed("serving the small model that ships", lambda: steps.deploy(ray, endpoint, out, logs / "serve.log"))
    picture = out / "before_after.png"
    _timed(f"{len(steps.FAMILIES)} edits over HTTP", lambda: steps.edit_scenes(endpoint, picture))
    return {
        "picture": str(picture),
        "stages": [{name: stage[name] for name in ("run", "step", "first", "last", "weights")} for stage in trained],
        "dashboard": ray.dashboard,
        "token_file": str(ray.token_file),
        "endpoint": f"{endpoint}/v1/images/edits",
        "out": str(out),
    }


def _timed(name: str, act: Callable[[], None]) -> None:
    started = time.monotonic()
    show(f"{name} ...")
    act()
    say(f"{name}  {duration(time.monotonic() - started)}")


def _say_where(report: Mapping[str, Any]) -> None:
    lines = {
        "picture": report["picture"],
        "dashboard": f"{report['dashboard']}, which asks for the token in {report['token_file']}",
        "endpoint": report["endpoint"],
        "trained": report["stages"][-1]["weights"],
        "all else": f"{report['out']}: home/corpora, home/runs, logs, serve.yaml",
    }
    say("")
    for name, value in lines.items():
        say(f"{name:10s} {value}")
    say(f"took {duration(report['seconds'])}; Ray and the endpoint stay up until `make stop`")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=steps.CHECKOUT / "out" / "demo", help="default: out/demo")
    parser.add_argument("--rows", type=int, default=600, help="scenes per corpus (default: %(default)s)")
    steps_help = "steps of stages 1 and 2; a third of them in 3 (default: %(default)s)"
    parser.add_argument("--steps", type=int, default=60, help=steps_help)
    every = [1, 2, 3]
    parser.add_argument("--stages", type=int, nargs="+", choices=every, default=every, help="default: 1 2 3")
    parser.add_argument("--stop", action="store_true", help="end what an earlier demo left running")
    return parser


if __name__ == "__main__":
    main()
