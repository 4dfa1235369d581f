"""Benchmark of what clients see: equal pictures by every way in, sharp photographs, real clients, an honest API.

Sections run one after another against serve/config.yaml, each stage with one thread, with the shipped weights on a Ray
of their own. The exit status is 1 if a bar is missed. `pip install 'fireedit[clients]'` installs the clients; give
--openai for a folder with another version of OpenAI's (`pip install --target FOLDER openai==1.109.1`).
"""

import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # a thread of Serve would start another Ray when the service's has ended

import argparse
from collections.abc import Sequence
from functools import partial

from fireedit.benchmarks.serve import Section, run
from fireedit.benchmarks.serving import real_clients, same_pictures
from fireedit.benchmarks.serving.server import Server


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    sections = SECTIONS | {"clients": partial(real_clients.real_clients, openai_folders=args.openai)}
    chosen = {name: sections[name] for name in args.only or SECTIONS}
    return run("clients", chosen, Server(same_pictures.ONE_THREAD), args.scale)


SECTIONS: dict[str, Section] = {
    "conventions": same_pictures.conventions_alike,
    "photographs": same_pictures.photographs,
    "clients": real_clients.real_clients,
    "fuzz": real_clients.fuzz,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="sections to run (default: all)")
    parser.add_argument("--scale", type=float, default=1.0, help="factor of all counts (default: %(default)s)")
    parser.add_argument("--openai", nargs="*", default=[], metavar="FOLDER", help="other versions of OpenAI's client")
    return parser


if __name__ == "__main__":
    sys.exit(main())
