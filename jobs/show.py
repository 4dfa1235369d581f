"""Look at samples before training on them.

`show.py cocostuff instructpix2pix --rows 6` shows corpora as they are published. `show.py --stage 2 --config nano
--rows 24` shows what train.py would draw with the same arguments, from its shards, in its order. Both make one sheet
of pictures with their texts, and tables on stderr.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from fireedit.jobs.training.recipe import read_recipe
from fireedit.jobs.training.samples import (
    CorpusShare,
    card,
    drawn,
    mixture_table,
    published,
    report,
    sample_table,
    shares_of,
)
from fireedit.jobs.training.stage_task import open_corpora
from fireedit.platform import storage
from fireedit.platform.console import say
from fireedit.platform.data.catalog import CORPORA, UnknownCorpusError
from fireedit.platform.data.corpora.rows import CorpusError
from fireedit.platform.data.mixture import MixtureError
from fireedit.platform.data.shards import ShardsError
from fireedit.platform.sheet import card_sheet

COLUMNS = 3


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_intermixed_args(argv)
    stop, shares = args.start + args.rows, dict[str, CorpusShare]()
    try:
        if args.stage or args.config:
            options = {"--stage": args.stage, "--config": args.config}
            recipe = read_recipe([word for pair in options.items() if pair[1] for word in pair] + args.what)
            corpora = open_corpora(recipe)
            shares, shown = shares_of(recipe, corpora), list(drawn(corpora, args.start, stop))
        else:
            folders = {name: storage.join(args.corpora, name) for name in args.what}
            shown = [row for name in folders for row in published(name, folders[name], args.split, args.start, stop)]
    except (UnknownCorpusError, CorpusError, ShardsError, MixtureError) as error:
        sys.exit(f"show.py: {error}")
    if not shown:
        sys.exit("show.py: found no sample; write the names of corpora or a --stage, more --rows or a smaller --start")
    cards = [card(row) for row in shown]
    say(sample_table(shown, cards))
    if shares:
        say(mixture_table(shares))
    card_sheet(cards, COLUMNS, args.side).save(args.out, quality=90)
    print(json.dumps({"sheet": str(args.out)} | report(shown, shares)))


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = f"corpora, of {', '.join(CORPORA)}; with --stage or --config: key=value of the recipe"
    parser.add_argument("what", nargs="*", help=what)
    default = " (default: %(default)s)"
    parser.add_argument("--start", type=int, default=0, help="first row of each corpus, or first draw" + default)
    parser.add_argument("--rows", type=int, default=6, help="rows of each corpus, or draws" + default)
    parser.add_argument("--side", type=int, default=192, help="pixels of a picture on the sheet" + default)
    parser.add_argument("--out", type=Path, default=Path("sheet.png"), help="the sheet, .png or .jpg" + default)
    corpora = parser.add_argument_group("corpora as they are published")
    corpora.add_argument("--split", default="train", help="split by the corpus's own name" + default)
    folder = storage.join(storage.home(), "corpora")
    corpora.add_argument("--corpora", default=folder, help="holds one folder per corpus" + default)
    recipe = parser.add_argument_group("a recipe's mixture, as train.py takes it")
    recipe.add_argument("--stage")
    recipe.add_argument("--config", help="nano, paper, or the path of a recipe (default: nano)")
    return parser


if __name__ == "__main__":
    main()
