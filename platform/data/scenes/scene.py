"""A scene as a description: what stands where, in fractions of the side, before anything is drawn."""

import dataclasses

from fireedit.platform.data.scenes import sprites
from fireedit.platform.data.scenes.objects import THINGS, Thing

HEIGHT_STEPS = 32
"""Objects are a whole number of these steps high, so that few sizes of a sprite have to be scaled."""

EFFECTS = ("black and white", "sepia", "night", "pixel art", "blur")
"""What can be done to the whole picture after it is drawn."""


@dataclasses.dataclass(frozen=True)
class Placed:
    """One object in a scene."""

    id: int
    """Unique in its scene; kept through an edit."""
    name: str
    x: float
    """Of its middle, in [0, 1] from the left."""
    y: float
    """Of its lower edge, in [0, 1] from the top."""
    height: int
    """In `HEIGHT_STEPS`ths of the side."""
    color: str = ""
    """What it is painted in; empty for the artwork's own colours."""
    mirrored: bool = False

    @property
    def thing(self) -> Thing:
        return THINGS[self.name]

    @property
    def looks(self) -> str:
        """The colour that one sees, empty for a thing that is never painted."""
        return self.color or self.thing.paint

    @property
    def noun(self) -> str:
        return f"{self.color} {self.name}" if self.color else self.name

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom in fractions of the side."""
        height = self.height / HEIGHT_STEPS
        width = height * sprites.aspect(self.name)
        return self.x - width / 2, self.y - height, self.x + width / 2, self.y


@dataclasses.dataclass(frozen=True)
class Scene:
    """Objects before a background; the same picture at every size."""

    background: str
    background_seed: int
    objects: tuple[Placed, ...] = ()
    effect: str = ""

    @property
    def names(self) -> set[str]:
        return {placed.name for placed in self.objects}

    @property
    def next_id(self) -> int:
        return 1 + max((placed.id for placed in self.objects), default=0)

    def plus(self, placed: Placed) -> "Scene":
        return dataclasses.replace(self, objects=(*self.objects, placed))

    def without(self, *ids: int) -> "Scene":
        return dataclasses.replace(self, objects=tuple(placed for placed in self.objects if placed.id not in ids))

    def with_changed(self, changed: Placed) -> "Scene":
        """The scene with the object of the same id exchanged."""
        objects = tuple(changed if placed.id == changed.id else placed for placed in self.objects)
        return dataclasses.replace(self, objects=objects)

    def has_room_for(self, candidate: Placed) -> bool:
        """Whether an object lies inside the picture and hides almost nothing of the others (its own id is ignored)."""
        left, top, right, bottom = candidate.box
        if left < 0.01 or right > 0.99 or top < 0.01 or bottom > 0.995:
            return False
        others = (placed for placed in self.objects if placed.id != candidate.id)
        return not any(_covers(candidate.box, placed.box) for placed in others)


def _covers(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether two boxes share more than 6 % of the smaller one."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return False
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return width * height > 0.06 * smaller
