"""What scenes may be made of, and which of it training never sees."""

import dataclasses

from fireedit.platform.data.scenes.backgrounds import BACKGROUNDS
from fireedit.platform.data.scenes.objects import COLORS, THINGS

TRAIN_SEEDS = range(0, 1_000_000_000)
"""Seeds of the scenes that may be trained on. The ranges are disjoint, so no tested scene was ever learned from."""
HELD_OUT_SEEDS = range(1_000_000_000, 1_100_000_000)
"""Seeds of the scenes that only tests and benchmarks draw."""


@dataclasses.dataclass(frozen=True)
class World:
    """The stock that scenes are drawn from."""

    things: tuple[str, ...]
    backgrounds: tuple[str, ...]
    colors: tuple[str, ...] = tuple(COLORS)


TRAIN = World(
    things=tuple(thing.name for thing in THINGS.values() if thing.split == "train"),
    backgrounds=tuple(name for name, background in BACKGROUNDS.items() if background.split == "train"),
)
"""The world of the training corpora, and of the held-out scenes that ask for nothing new."""

UNSEEN = World(
    things=tuple(thing.name for thing in THINGS.values() if thing.split == "unseen"),
    backgrounds=tuple(name for name, background in BACKGROUNDS.items() if background.split == "unseen"),
)
"""A world of objects and backgrounds that training never shows."""
