"""Samples for a person: as cards of a sheet and as lines of a table, and the mixture that draws them."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from fireedit.jobs.training.recipe import TrainRecipe
from fireedit.platform.data.catalog import open_corpus
from fireedit.platform.data.ingest import Corpora
from fireedit.platform.data.sample import Sample
from fireedit.platform.images import decode
from fireedit.platform.sheet import RGB, Card, Panel

COLORS: dict[str, RGB] = {"edit": (36, 92, 168), "vqa": (18, 122, 92), "caption": (112, 84, 156)}
SET_ASIDE: RGB = (190, 36, 44)
TABLE_WIDTH = 120
CLOCKED_STEPS = 1000
"""Steps that epochs are counted for where a recipe leaves the number of steps to the clock."""


@dataclass(frozen=True)
class ShownSample:
    """A sample with its place: a row of its corpus, or a draw of a run."""

    sample: Sample
    number: int
    note: str
    """Place in words: `row 3`, or `draw 17, epoch 0`."""


@dataclass(frozen=True)
class CorpusShare:
    """Share of a corpus in a mixture."""

    weight: float
    """Share that the recipe asks for, of 1."""
    rows: int
    epochs: float
    """Passes through the corpus in the recipe's steps, or in CLOCKED_STEPS."""


def published(name: str, folder: str, split: str, start: int, stop: int) -> Iterator[ShownSample]:
    """Read rows number start, ..., stop - 1 of a corpus in its reader's order.

    Raises:
        UnknownCorpusError, CorpusError: no such corpus, or a folder that is not what its name says.
    """
    for number, sample in enumerate(islice(open_corpus(name, folder, split), start, stop), start):
        yield ShownSample(sample, number, f"row {number}")


def drawn(corpora: Corpora, start: int, stop: int) -> Iterator[ShownSample]:
    """Read draws number start, ..., stop - 1 of a run, with rows that the processor would refuse."""
    read = corpora.reader()
    for draw in corpora.mixture.draws(start, stop):
        yield ShownSample(read(draw).sample, draw.number, f"draw {draw.number}, epoch {draw.epoch}")


def shares_of(recipe: TrainRecipe, corpora: Corpora) -> dict[str, CorpusShare]:
    """Count what the recipe's run draws from every corpus of its mixture."""
    total, draws = sum(recipe.mixture.values()), (recipe.steps or CLOCKED_STEPS) * recipe.samples_per_step
    shares = {name: weight / total for name, weight in recipe.mixture.items()}
    return {
        name: CorpusShare(round(share, 4), corpora.sizes[name], round(draws * share / corpora.sizes[name], 4))
        for name, share in shares.items()
    }


def report(shown: Sequence[ShownSample], shares: Mapping[str, CorpusShare]) -> dict[str, Any]:
    """Count samples and bad ones, in all and of each corpus, beside the corpora's shares in a mixture."""
    samples = Counter(row.sample.corpus for row in shown)
    bad = Counter(row.sample.corpus for row in shown if row.sample.error)
    corpora: dict[str, dict[str, float]] = {
        name: {"samples": samples[name], "bad": bad[name]} for name in shares or samples
    }
    for name, share in shares.items():
        corpora[name] |= asdict(share)
    return {"samples": len(shown), "bad": bad.total(), "corpora": corpora}


def card(shown: ShownSample) -> Card:
    """Lay a sample out as a card: source with its boxes, then target or first answer."""
    sample = shown.sample
    pictures = [] if sample.error else [decode(data) for data in (sample.source, sample.target) if data]
    words, aside = _texts(sample)
    return Card(
        title=f"{sample.task}   {sample.corpus}",
        note=shown.note,
        color=SET_ASIDE if sample.error else COLORS[sample.task],
        words=words,
        panels=[Panel(image=image, boxes=boxes) for image, boxes in zip(pictures, (sample.boxes, ()), strict=False)],
        aside=aside,
    )


def _texts(sample: Sample) -> tuple[str, str]:
    """Choose the text above a sample's pictures, and the one beside its source if that is the only picture."""
    if sample.error:
        return f"SET ASIDE: {sample.error}", ""
    if sample.task == "vqa":
        return sample.questions[0], sample.answers[0]
    return sample.instruction, "no target" if sample.task == "edit" else ""


def sample_table(shown: Sequence[ShownSample], cards: Sequence[Card]) -> str:
    """Write a line for each sample; two sizes where source and target differ."""
    lines = [f"{'no.':>6s}  {'id':38s}  {'task':7s}  {'size':9s}  boxes  words"]
    for row, its_card in zip(shown, cards, strict=True):
        sizes = dict.fromkeys("{1}x{0}".format(*panel.image.shape) for panel in its_card.panels)
        words = f"{its_card.words} - {its_card.aside}" if row.sample.questions else its_card.words
        id_, task, boxes = row.sample.id[:38], row.sample.task, len(row.sample.boxes)
        line = f"{row.number:6d}  {id_:38s}  {task:7s}  {' > '.join(sizes):9s}  {boxes:5d}  {' '.join(words.split())}"
        lines.append(line[:TABLE_WIDTH])
    return "\n".join(lines)


def mixture_table(shares: Mapping[str, CorpusShare]) -> str:
    """Write a line for each corpus of a mixture, below an empty one."""
    lines = ["", f"{'corpus':16s}  weight        rows  epochs"]
    for name, share in shares.items():
        lines.append(f"{name:16s}  {share.weight:6.4f}  {share.rows:10,}  {share.epochs:6.2f}")
    return "\n".join(lines)
