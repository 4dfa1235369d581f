"""What scenes may be made of: the world of training, and held-out ones that each ask for something it never shows."""

import dataclasses

from fireedit.platform.scenes.backgrounds import BACKGROUNDS, Landscape, Photo, Split
from fireedit.platform.scenes.objects import THINGS, Taught
from fireedit.platform.scenes.sprites import Artwork

Pair = tuple[str, str]
"""An operation and a thing it is done to: ("recolor", "car")."""

TRAINED_COLORS = ("red", "yellow", "green", "blue", "purple", "white")

_HELD_OUT = {
    "add": ("apple", "umbrella"),
    "remove": ("banana", "airplane"),
    "replace": ("duck", "tree"),
    "recolor": ("book", "car"),
    "move": ("key", "soccer ball"),
    "resize": ("bucket", "chair"),
}
HELD_OUT_PAIRS: tuple[Pair, ...] = tuple(
    (operation, thing) for operation in _HELD_OUT for thing in _HELD_OUT[operation]
)
"""What training never does to things that it knows well. No thing is listed twice, and "replace" bars both its sides:
a duck neither goes nor comes. A tuple, so that the repr of a world is the same in every process."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """The stock that scenes are drawn from, the edits that are made of them, and the seeds that draw both."""

    name: str
    seeds: range
    things: tuple[str, ...]
    backgrounds: tuple[str, ...]
    colors: tuple[str, ...] = TRAINED_COLORS
    windows: int = 1
    """How many windows of each background are shown; a big number makes nearly each scene's its own."""
    grid: int | None = 16
    """Cells a side, a divisor of `HEIGHT_STEPS`: left and lower edges lie on its lines, and heights are whole cells.
    None lets objects stand anywhere."""
    artwork: Artwork = "openmoji"
    barred: tuple[Pair, ...] = ()
    """No edit does one of these."""
    only: tuple[Pair, ...] = ()
    """If there are any, every edit does at least one of these."""
    families: tuple[str, ...] = ()
    """If there are any, every edit is of one of these."""
    reasons_about: Taught = "everywhere"
    """Instructions tell an object by its use if this is where its use was taught."""

    def require(self, seed: int) -> None:
        """Refuse a seed that is another world's."""
        if seed not in self.seeds:
            first, last = self.seeds[0], self.seeds[-1]
            raise ValueError(f"seed {seed} is not of the world {self.name!r}; take one of its own, {first} to {last}")

    def allows(self, pairs: set[Pair]) -> bool:
        """Whether an edit that does these is one of this world's."""
        return pairs.isdisjoint(self.barred) and not (self.only and pairs.isdisjoint(self.only))


def _things(split: Split) -> tuple[str, ...]:
    return tuple(name for name, thing in THINGS.items() if thing.split == split)


def _backgrounds(split: Split, kind: type = object) -> tuple[str, ...]:
    return tuple(name for name, one in BACKGROUNDS.items() if one.split == split and isinstance(one, kind))


def _held_out(number: int) -> range:
    """The seeds of a held-out world: a hundred million each, behind those of training."""
    return range(1_000_000_000 + number * 100_000_000, 1_000_000_000 + (number + 1) * 100_000_000)


TRAIN = World(
    name="train",
    seeds=range(1_000_000_000),
    things=_things("train"),
    backgrounds=_backgrounds("train"),
    barred=HELD_OUT_PAIRS,
)
"""The world of the training corpora."""

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
"""Every split by its name. No seed belongs to two, and each entry by seed refuses another's: what is tested was never
trained on. Apart from `unseen_objects`, which is drawn before new landscapes too, a split changes one thing only."""
