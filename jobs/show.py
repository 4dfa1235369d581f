"""Look at samples before training on them.

`show.py cocostuff instructpix2pix --rows 6` shows corpora as they are published. `show.py --stage 2 --config nano
--rows 24` shows what train.py would draw with the same arguments, from its shards, in its order. Both make one sheet
of pictures with their words, and tables on stderr.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from fireedit.jobs.train import TrainRecipe, open_corpora, read_recipe
from fireedit.platform import storage
from fireedit.platform.data.catalog import CORPORA, UnknownCorpusError, open_corpus
from fireedit.platform.data.corpora.rows import CorpusError
from fireedit.platform.data.ingest import Corpora
from fireedit.platform.data.mixture import MixtureError
from fireedit.platform.data.sample import Sample
from fireedit.platform.data.shards import INDEX, ShardsError
from fireedit.platform.images import decode
from fireedit.platform.sheet import Card, Colour, Panel, card_sheet

COLUMNS = 3
COLOURS: dict[str, Colour] = {"edit": (36, 92, 168), "vqa": (18, 122, 92), "caption": (112, 84, 156)}
SET_ASIDE: Colour = (190, 36, 44)
TABLE_WIDTH, ID_WIDTH = 120, 38
SHARE_DRAWS = 10_000
CLOCKED_STEPS = 1000
"""Steps that epochs are told for where a recipe leaves their number to the clock."""


@dataclass(frozen=True)
class Shown:
    """A sample and where it stands: a row of its corpus, or a draw of a run."""

    sample: Sample
    number: int
    note: str
    """The same in words: `row 3`, or `draw 17, epoch 0`."""


@dataclass(frozen=True)
class Part:
    """What a corpus is of a mixture."""

    weight: float
    """The share asked for, of 1."""
    rows: int
    epochs: float
    """How often the recipe's steps, or CLOCKED_STEPS, go through it."""
    share: float
    """Of the first SHARE_DRAWS draws."""


def main(argv: Sequence[str] | None = None) -> None:
    asked = _parser().parse_intermixed_args(argv)
    stop, parts = asked.start + asked.rows, dict[str, Part]()
    try:
        if asked.stage or asked.config:
            options = {"--stage": asked.stage, "--config": asked.config}
            recipe = read_recipe([word for pair in options.items() if pair[1] for word in pair] + asked.what)
            require_shards(recipe)
            corpora = open_corpora(recipe)
            parts, shown = parts_of(recipe, corpora), list(drawn(corpora, asked.start, stop))
        else:
            folders = {name: storage.join(asked.corpora, name) for name in asked.what}
            shown = [row for name in folders for row in published(name, folders[name], asked.split, asked.start, stop)]
    except (UnknownCorpusError, CorpusError, ShardsError, MixtureError) as error:
        sys.exit(f"show.py: {error}")
    if not shown:
        sys.exit("show.py: found no sample; write the names of corpora or a --stage, more --rows or a smaller --start")
    cards = [card(row) for row in shown]
    say(sample_table(shown, cards))
    if parts:
        say(mixture_table(parts, recipe.steps or CLOCKED_STEPS))
    card_sheet(cards, COLUMNS, asked.side).save(asked.out, quality=90)
    print(json.dumps({"sheet": str(asked.out)} | report(shown, parts)))


def published(name: str, folder: str, split: str, start: int, stop: int) -> Iterator[Shown]:
    """Rows number start, ..., stop - 1 of a corpus, as its reader yields them.

    Raises:
        UnknownCorpusError, CorpusError: no such corpus, or a folder that is not what its name says.
    """
    for number, sample in enumerate(islice(open_corpus(name, folder, split), start, stop), start):
        yield Shown(sample, number, f"row {number}")


def drawn(corpora: Corpora, start: int, stop: int) -> Iterator[Shown]:
    """Draws number start, ..., stop - 1 of a run; rows that the processor will refuse are still among them."""
    read = corpora.reader()
    for draw in corpora.mixture.draws(start, stop):
        yield Shown(read(draw).sample, draw.number, f"draw {draw.number}, epoch {draw.epoch}")


def parts_of(recipe: TrainRecipe, corpora: Corpora) -> dict[str, Part]:
    """What the recipe's run makes of every corpus of its mixture."""
    total, draws = sum(recipe.mixture.values()), (recipe.steps or CLOCKED_STEPS) * recipe.samples_per_step
    counts = Counter(draw.corpus for draw in corpora.mixture.draws(0, SHARE_DRAWS))
    return {
        name: Part(
            weight=round(weight / total, 4),
            rows=corpora.sizes[name],
            epochs=round(draws * weight / total / corpora.sizes[name], 4),
            share=counts[name] / SHARE_DRAWS,
        )
        for name, weight in recipe.mixture.items()
    }


def report(shown: Sequence[Shown], parts: Mapping[str, Part]) -> dict[str, Any]:
    """What the job reports: samples, bad ones, both of each corpus, and what a mixture makes of it."""
    samples = Counter(row.sample.corpus for row in shown)
    bad = Counter(row.sample.corpus for row in shown if row.sample.error)
    corpora: dict[str, dict[str, float]] = {
        name: {"samples": samples[name], "bad": bad[name]} for name in parts or samples
    }
    for name, part in parts.items():
        corpora[name] |= asdict(part)
    return {"samples": len(shown), "bad": bad.total(), "corpora": corpora}


def require_shards(recipe: TrainRecipe) -> None:
    """Exit with the commands that make them where shards of the mixture are missing."""
    corpora, shards = storage.join(recipe.home, "corpora"), storage.join(recipe.home, "shards")
    missing = [name for name in recipe.mixture if not storage.exists(storage.join(shards, name, INDEX))]
    if not missing:
        return
    names, size = ",".join(missing), f" --size {recipe.scenes.size}" if recipe.scenes else ""
    commands = [f"python jobs/prepare.py shards --corpora {names} --source {corpora} --out {shards}{size}"]
    if recipe.scenes and not all(storage.names(storage.join(corpora, name)) for name in missing):
        rows = f"--rows {recipe.scenes.rows}{size}"
        commands.insert(0, f"python jobs/prepare.py scenes --corpora {names} --out {corpora} {rows}")
    sys.exit("\n  ".join([f"show.py: {shards} holds no finished shards of {', '.join(missing)}; run:", *commands]))


def card(shown: Shown) -> Card:
    """A sample as the sheet shows it: source with its boxes, then target or first answer."""
    sample = shown.sample
    pictures = [] if sample.error else [decode(data) for data in (sample.source, sample.target) if data]
    words, aside = said(sample)
    return Card(
        title=f"{sample.task}   {sample.corpus}",
        note=shown.note,
        colour=SET_ASIDE if sample.error else COLOURS[sample.task],
        words=words,
        panels=[Panel(image=image, boxes=boxes) for image, boxes in zip(pictures, (sample.boxes, ()), strict=False)],
        aside=aside,
    )


def said(sample: Sample) -> tuple[str, str]:
    """What stands above a sample's pictures, and beside its source if that is the only one."""
    if sample.error:
        return f"SET ASIDE: {sample.error}", ""
    if sample.task == "vqa":
        return sample.questions[0], sample.answers[0]
    return sample.instruction, "no target" if sample.task == "edit" else ""


def sample_table(shown: Sequence[Shown], cards: Sequence[Card]) -> str:
    """A line for each sample; two sizes where source and target differ."""
    lines = [[f"{'no.':>6s}", "id", "task", "size", "boxes", "words"]]
    for row, its in zip(shown, cards, strict=True):
        sizes = dict.fromkeys("{1}x{0}".format(*panel.image.shape) for panel in its.panels)
        about = [row.sample.task, " > ".join(sizes) or "-", str(len(row.sample.boxes) or "-")]
        words = f"{its.words} - {its.aside}" if row.sample.questions else its.words
        lines.append([f"{row.number:6d}", _cut(row.sample.id, ID_WIDTH), *about, " ".join(words.split())])
    return _aligned(lines)


def mixture_table(parts: Mapping[str, Part], steps: int) -> str:
    """A line for each corpus of a mixture, below an empty one."""
    epochs, share = f"epochs in {steps:,} steps", f"share of {SHARE_DRAWS:,} draws"
    lines = [["corpus", "weight", f"{'rows':>10s}", epochs, share]]
    for name, part in parts.items():
        numbers = [f"{part.weight:6.4f}", f"{part.rows:10,}", f"{part.epochs:{len(epochs)}.2f}"]
        lines.append([name, *numbers, f"{part.share:{len(share)}.4f}"])
    return "\n" + _aligned(lines)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their longest cell, and lines cut to TABLE_WIDTH."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
    return "\n".join(_cut(line, TABLE_WIDTH) for line in padded)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"found {text!r}; write a whole number")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="show.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = f"corpora, of {', '.join(CORPORA)}; with --stage or --config: key=value of the recipe"
    parser.add_argument("what", nargs="*", help=what)
    default = " (default: %(default)s)"
    parser.add_argument("--start", type=_count, default=0, help="first row of each corpus, or first draw" + default)
    parser.add_argument("--rows", type=_count, default=6, help="rows of each corpus, or draws" + default)
    parser.add_argument("--side", type=_count, default=192, help="pixels of a picture on the sheet" + default)
    parser.add_argument("--out", type=Path, default=Path("sheet.png"), help="the sheet, .png or .jpg" + default)
    corpora = parser.add_argument_group("corpora as they are published")
    corpora.add_argument("--split", default="train", help="as the corpus calls it" + default)
    folder = storage.join(storage.home(), "corpora")
    corpora.add_argument("--corpora", default=folder, help="holds one folder per corpus" + default)
    recipe = parser.add_argument_group("a recipe's mixture, as train.py takes it")
    recipe.add_argument("--stage")
    recipe.add_argument("--config", help="nano, paper, or the path of a recipe (default: nano)")
    return parser


if __name__ == "__main__":
    main()
