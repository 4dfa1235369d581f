"""Worlds that scenes are drawn from: the training world, and held-out worlds that each change one thing."""

import dataclasses

from pydantic import PositiveInt

from fireedit.platform.scenes.backgrounds import BACKGROUNDS, Landscape, Photo, Split
from fireedit.platform.scenes.objects import THINGS, Taught
from fireedit.platform.scenes.sprites import Artwork

Pair = tuple[str, str]
"""Operation and the thing that it edits: ("recolor", "car")."""

TRAINED_COLORS = ("red", "yellow", "green", "blue", "purple", "white")

_HELD_OUT = {
    "add": ("apple", "umbrella"),
    "remove": ("banana", "airplane"),
    "replace": ("duck", "tree"),
    "recolor": ("book", "car"),
    "move": ("key", "soccer ball"),
    "resize": ("bucket", "chair"),
}
HELD_OUT_PAIRS: tuple[Pair, ...] = tuple((name, thing) for name, things in _HELD_OUT.items() for thing in things)
"""Pairs held out of training, of things that it shows otherwise. No thing is listed twice, and "replace" bars both of
its sides: a duck neither goes nor comes. A tuple, so that the repr of a world is the same in every process."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScenesConfig:
    """Procedural scenes that replace the corpora of a recipe that are not there."""

    rows: PositiveInt
    """Scenes per corpus."""
    size: PositiveInt
    """Pixels a side."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """Stock of a split: its objects, backgrounds and colors, its edits, and the seeds that draw them."""

    name: str
    seeds: range
    things: tuple[str, ...]
    backgrounds: tuple[str, ...]
    colors: tuple[str, ...] = TRAINED_COLORS
    windows: int = 1
    """Windows of each background; a large number gives nearly every scene one of its own."""
    grid: int | None = 16
    """Cells a side, a divisor of `HEIGHT_STEPS`: left and lower edges are on its lines, and heights are whole cells.
    None places objects anywhere."""
    artwork: Artwork = "openmoji"
    barred: tuple[Pair, ...] = ()
    """Pairs that no edit has."""
    only: tuple[Pair, ...] = ()
    """Pairs of which every edit has at least one; empty allows all."""
    families: tuple[str, ...] = ()
    """Families that edits are limited to; empty allows all."""
    reasons_about: Taught = "everywhere"
    """Things that instructions may refer to by their use: those whose use is taught here."""

    def require(self, seed: int) -> None:
        """Raise ValueError for a seed of another world."""
        if seed not in self.seeds:
            first, last = self.seeds[0], self.seeds[-1]
            raise ValueError(f"seed {seed} is not of the world {self.name!r}; take one of {first} to {last}")

    def allows(self, pairs: set[Pair]) -> bool:
        """Check if an edit with these pairs belongs to this world."""
        return pairs.isdisjoint(self.barred) and not (self.only and pairs.isdisjoint(self.only))


def _things(split: Split) -> tuple[str, ...]:
    return tuple(name for name, thing in THINGS.items() if thing.split == split)


def _backgrounds(split: Split, kind: type = object) -> tuple[str, ...]:
    of_split = ((name, background) for name, background in BACKGROUNDS.items() if background.split == split)
    return tuple(name for name, background in of_split if isinstance(background, kind))


def _held_out(number: int) -> range:
    """Return the seeds of a held-out world: a hundred million each, after those of training."""
    return range(1_000_000_000 + number * 100_000_000, 1_000_000_000 + (number + 1) * 100_000_000)


TRAIN = World(
    name="train",
    seeds=range(1_000_000_000),
    things=_things("train"),
    backgrounds=_backgrounds("train"),
    barred=HELD_OUT_PAIRS,
)
"""World of the training corpora."""

_WORLDS = (
    TRAIN,
    dataclasses.replace(TRAIN, name="unseen_seeds", seeds=_held_out(0)),
    dataclasses.replace(
        TRAIN,
        name="unseen_objects",
        seeds=_held_out(1),
        things=_things("unseen"),
        backgrounds=(*TRAIN.backgrounds, *_backgrounds("unseen", Landscape)),
    ),
    dataclasses.replace(TRAIN, name="unseen_pairs", seeds=_held_out(2), barred=(), only=HELD_OUT_PAIRS),
    dataclasses.replace(TRAIN, name="unseen_artwork", seeds=_held_out(3), artwork="noto"),
    dataclasses.replace(TRAIN, name="photos", seeds=_held_out(4), backgrounds=_backgrounds("unseen", Photo)),
    dataclasses.replace(TRAIN, name="knowledge", seeds=_held_out(5), families=("reasoning",), reasons_about="dialogue"),
)
WORLDS = {world.name: world for world in _WORLDS}
"""Worlds by name. No seed belongs to two, and a world refuses the seeds of another: test scenes are never trained on.
Apart from `unseen_objects`, which has new landscapes too, a world changes one thing only."""
