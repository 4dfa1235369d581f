"""What scenes may be made of: the world of training, and held-out ones that each ask for something it never shows."""

import dataclasses

from fireedit.platform.data.scenes.backgrounds import BACKGROUNDS, Landscape, Photo, Split
from fireedit.platform.data.scenes.objects import COLORS, THINGS
from fireedit.platform.data.scenes.sprites import Artwork

Pair = tuple[str, str]
"""An operation and a thing it is done to: ("recolor", "car")."""

_HELD_OUT = {
    "add": ("horse", "umbrella", "cactus"),
    "remove": ("dog", "banana", "bus"),
    "replace": ("turtle", "hammer", "sunflower"),
    "recolor": ("book", "car"),
    "move": ("elephant", "camera", "tree"),
    "resize": ("cat", "cake", "chair"),
}
HELD_OUT_PAIRS: tuple[Pair, ...] = tuple(
    (operation, thing) for operation in _HELD_OUT for thing in _HELD_OUT[operation]
)
"""What training never does to things that it knows well. No thing is listed twice, and "replace" bars both its sides:
a turtle neither goes nor comes. A tuple, so that the repr of a world is the same in every process."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """The stock that scenes are drawn from, the edits that are made of them, and the seeds that draw both."""

    name: str
    seeds: range
    things: tuple[str, ...]
    backgrounds: tuple[str, ...]
    colors: tuple[str, ...] = tuple(COLORS)
    artwork: Artwork = "openmoji"
    barred: tuple[Pair, ...] = ()
    """No edit does one of these."""
    only: tuple[Pair, ...] = ()
    """If there are any, every edit does at least one of these."""

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
)
WORLDS = {world.name: world for world in _WORLDS}
"""Every split by its name. No seed belongs to two, and each entry by seed refuses another's: what is tested was never
trained on. Apart from `unseen_objects`, which is drawn before new landscapes too, a split changes one thing only."""
