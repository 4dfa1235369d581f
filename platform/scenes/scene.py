"""Symbolic description of a scene: objects and their positions, in fractions of the side."""

import dataclasses
import functools

from fireedit.platform.scenes import sprites
from fireedit.platform.scenes.objects import THINGS, Thing

HEIGHT_STEPS = 32
"""Steps per side; heights of objects are whole steps, so that sprites are scaled to few sizes."""

MIRROR_SIZE = (7 / 16, 10 / 16)
"""Width and height, in fractions of the side."""
MIRROR_FRAME = 1 / 32
"""Width of the frame, in fractions of the side."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in fractions of the side."""
_PICTURE: Box = (0.01, 0.01, 0.99, 0.995)
"""Box that all objects are inside of."""

EFFECTS = ("black and white", "sepia", "night", "pixel art", "blur")
"""Effects on the whole picture, applied after it is drawn."""


@dataclasses.dataclass(frozen=True)
class Placed:
    """Object in a scene."""

    id: int
    """Unique in its scene; kept through an edit."""
    name: str
    x: float
    """Center in [0, 1] from the left."""
    y: float
    """Lower edge in [0, 1] from the top."""
    height: int
    """Height in steps of 1 / `HEIGHT_STEPS` of the side."""
    color: str = ""
    """Color that it is painted in; empty for the artwork's own."""
    mirrored: bool = False
    reflection: bool = False
    """Marks a reflection in the mirror of the scene."""
    artwork: sprites.Artwork = "openmoji"

    @property
    def thing(self) -> Thing:
        return THINGS[self.name]

    @property
    def looks(self) -> str:
        """Visible color; empty for a thing that cannot be repainted."""
        return self.color or self.paint

    @property
    def paint(self) -> str:
        """Color of its artwork, if that can be changed; else empty."""
        return sprites.paint(self.name, self.artwork)

    @property
    def noun(self) -> str:
        return f"{self.color} {self.name}" if self.color else self.name

    @functools.cached_property
    def box(self) -> Box:
        height = self.height / HEIGHT_STEPS
        width = height * sprites.aspect(self.name, self.artwork)
        return self.x - width / 2, self.y - height, self.x + width / 2, self.y


@dataclasses.dataclass(frozen=True)
class Mirror:
    """A framed upright mirror that faces the viewer."""

    x: float
    """Center in [0, 1] from the left."""
    y: float
    """Lower edge in [0, 1] from the top."""

    @property
    def box(self) -> Box:
        width, height = MIRROR_SIZE
        return self.x - width / 2, self.y - height, self.x + width / 2, self.y

    @property
    def glass(self) -> Box:
        """Box inside the frame, which shows reflections."""
        left, top, right, bottom = self.box
        return left + MIRROR_FRAME, top + MIRROR_FRAME, right - MIRROR_FRAME, bottom - MIRROR_FRAME


@dataclasses.dataclass(frozen=True)
class Scene:
    """Objects in front of a background, perhaps with a mirror behind them; the same picture at every size."""

    background: str
    background_seed: int
    objects: tuple[Placed, ...] = ()
    effect: str = ""
    mirror: Mirror | None = None

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
        """Return the scene with the object of the same id replaced."""
        objects = tuple(changed if placed.id == changed.id else placed for placed in self.objects)
        return dataclasses.replace(self, objects=objects)

    def has_room_for(self, candidate: Placed) -> bool:
        """Check that an object is inside the picture and hides almost nothing of the others (its own id is ignored).

        A reflection must be inside the glass, and a real object hide almost nothing of the mirror.
        """
        room, box = _PICTURE, candidate.box
        if self.mirror is not None and candidate.reflection:
            room = self.mirror.glass
        elif self.mirror is not None and _covers(box, self.mirror.box):
            return False
        inside = room[0] <= box[0] and room[1] <= box[1] and box[2] <= room[2] and box[3] <= room[3]
        return inside and not any(_covers(box, placed.box) for placed in self.objects if placed.id != candidate.id)


def _covers(one: Box, other: Box) -> bool:
    """Check if two boxes share more than 6 % of the smaller one."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    smaller = min((one[2] - one[0]) * (one[3] - one[1]), (other[2] - other[0]) * (other[3] - other[1]))
    return width > 0 and height > 0 and width * height > 0.06 * smaller
