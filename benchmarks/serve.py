"""Benchmark of the shipped service under load: equal pictures, fair turns, speed, and a door that stays up.

Sections run one after another against serve/config.yaml with the shipped weights on a Ray of their own; each prints its
figures beside their bars. The exit status is 1 if a bar is missed. Give --only to run some of them, and --scale to run
all with fewer edits, which proves less.
"""

import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # a thread of Serve would start another Ray when the service's has ended

import argparse
import asyncio
import json
import traceback
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from fireedit.benchmarks.serving import door, painting
from fireedit.benchmarks.serving.figures import Figure, report, show_section
from fireedit.benchmarks.serving.server import Server
from fireedit.platform.console import say

Section = Callable[[Server, float], Coroutine[Any, Any, list[Figure]]]
SECTIONS: dict[str, Section] = {
    "pictures": painting.same_pictures,
    "speed": painting.speed,
    "fairness": painting.fairness,
    "slow-bodies": door.slow_bodies,
    "large-pictures": door.large_pictures,
    "flood": door.flood,
    "disconnects": door.disconnects,
}


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    return run("serve", {name: SECTIONS[name] for name in args.only or SECTIONS}, Server(), args.scale)


def run(benchmark: str, sections: Mapping[str, Section], server: Server, scale: float) -> int:
    """Run sections against a server that is started for them, and report; returns the exit status."""
    figures: dict[str, list[Figure]] = {}
    with server:
        say(f"{server.url}; logs come to {server.folder}")
        for name, section in sections.items():
            figures[name] = measure(section, server, scale)
            show_section(name, figures[name])
    result = report(figures)
    print(json.dumps({"benchmark": benchmark, "scale": scale, "cores": os.cpu_count(), **result}))
    return 1 if result["missed"] else 0


def measure(section: Section, server: Server, scale: float) -> list[Figure]:
    """Run a section; one that fails misses a bar, and those after it still run."""
    try:
        return asyncio.run(section(server, scale))
    except Exception:
        traceback.print_exc()
        return [Figure("failures of this section", 1, most=0)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="sections to run (default: all)")
    parser.add_argument("--scale", type=float, default=1.0, help="factor of all counts (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
