"""Look at what a corpus holds before it is trained on: `python jobs/show.py cocostuff instructpix2pix --rows 6`.

Writes a contact sheet of source and target with each sample's words, and a table of them on stderr.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fireedit.platform import storage
from fireedit.platform.data.catalog import CORPORA, open_corpus
from fireedit.platform.images import decode
from fireedit.platform.sheet import Panel, sheet
from fireedit.platform.train.launcher import start_ray

BLANK = np.full((64, 64, 3), 235, np.uint8)
"""Stands where a sample has no picture."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="show.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=list(CORPORA), help=f"of {', '.join(CORPORA)} (default: all)")
    parser.add_argument("--corpora", default=storage.join(storage.home(), "corpora"), help="default: %(default)s")
    parser.add_argument("--rows", type=int, default=6, help="samples of each corpus (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("sheet.png"), help="default: %(default)s")
    asked = parser.parse_args(argv)
    start_ray()
    try:
        samples = [row for name in asked.names for row in first_rows(asked.corpora, name, asked.rows)]
    except ValueError as error:
        sys.exit(f"show.py: {error}")
    for row in samples:
        print(f"{row['id']:48s} {row['task']:8s} {words(row)}", file=sys.stderr)
    sheet([panel for row in samples for panel in panels(row)], columns=4, height=256).save(asked.out)
    print(
        json.dumps(
            {"sheet": str(asked.out), "samples": len(samples), "bad": sum(bool(row["error"]) for row in samples)}
        )
    )


def first_rows(corpora: str, name: str, count: int) -> list[dict[str, Any]]:
    """The first samples of a corpus, as its reader yields them.

    Raises:
        UnknownCorpusError, CorpusError: no such corpus, or a folder that is not what its name says.
    """
    return open_corpus(name, storage.join(corpora, name)).take(count)


def words(row: Mapping[str, Any]) -> str:
    """What a sample says, in one line."""
    if row["error"]:
        return f"SET ASIDE: {row['error']}"
    dialogue = zip(row["questions"], row["answers"], strict=True)
    return row["instruction"] or " / ".join(f"{question} - {answer}" for question, answer in dialogue)


def panels(row: Mapping[str, Any]) -> Iterator[Panel]:
    """A sample as two panels: its source under its words, its target under its corpus."""
    pictures = {name: decode(row[name]) if row[name] and not row["error"] else BLANK for name in ("source", "target")}
    yield Panel(image=pictures["source"], title=words(row))
    yield Panel(image=pictures["target"], title=f"{row['corpus']}, {row['task']}")


if __name__ == "__main__":
    main()
