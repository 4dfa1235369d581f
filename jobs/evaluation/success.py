"""Whether an edit succeeded: what was asked for happened, and nothing else did.

A reading of the edited picture is held against the scene that was asked for, object by object. What an instruction
leaves open is left open here too: where on the left a thing is added, in which colour it replaces another.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from fireedit.jobs.evaluation.scene_reader import Reading, Seen, iou
from fireedit.platform.scenes import language
from fireedit.platform.scenes.edits import Edit
from fireedit.platform.scenes.scene import Placed, Scene

SAME_PLACE_IOU = 0.5
SAME_SIZE = 1.22
"""Factor of the sides, either way: about half of what an edit makes bigger or smaller."""
SAME_FOOT = 0.12
"""Of the side: as far may a thing stand from where the one stood that it replaces, and a mirror from its place."""
TOP = 0.6
"""Of the side: above it lies the lower edge of a thing "at the top"."""
COLORLESS = ("black and white", "sepia")
"""Effects after which nobody can tell a colour."""

Place = Callable[[Seen], bool]
"""Whether an object stands where one is wanted."""


@dataclass(frozen=True)
class Wanted:
    """An object that the edited picture should show."""

    name: str
    reflection: bool
    color: str
    """Empty if any will do."""
    stands: Place

    def told(self, seen: Seen) -> bool:
        """Whether this is what was read, where it was wanted."""
        return seen.name == self.name and seen.reflection == self.reflection and self.stands(seen)


@dataclass(frozen=True)
class Verdict:
    """Whether an edit succeeded, and if not, why."""

    wrong: tuple[str, ...]
    """Such as "no dog" or "a cat too many"."""

    @property
    def success(self) -> bool:
        return not self.wrong


def judge(edits: Sequence[Edit], reading: Reading) -> Verdict:
    """Hold the reading of a picture against the scene that one edit asks for, or the last of several in a row."""
    scene = edits[-1].target
    wrong, left = [], list(reading.objects)
    for wanted in wanted_objects(edits):
        seen = next((seen for seen in left if wanted.told(seen)), None)
        if seen is None:
            wrong.append(_missing(wanted, left))
            continue
        left.remove(seen)
        if wanted.color and seen.color != wanted.color:
            wrong.append(f"a {seen.color} {seen.name}, not {wanted.color}")
    wrong += [f"a {seen.name} too many" for seen in left]
    if reading.background != scene.background:
        wrong.append(f"before {reading.background}")
    if reading.effect != scene.effect:
        wrong.append(reading.effect or "no effect")
    if not _same_mirror(scene, reading):
        wrong.append("the mirror")
    return Verdict(tuple(wrong))


def wanted_objects(edits: Sequence[Edit]) -> list[Wanted]:
    """What the last of some edits in a row should leave; those whose place is given come first."""
    open_places = dict[int, Place]()
    open_colors = dict[int, bool]()
    for edit in edits:
        for placed in edit.target.objects:
            if placed.id not in edit.edited:
                continue
            if edit.operation in ("add", "replace"):
                open_colors[placed.id] = not placed.color
                open_places[placed.id] = _asked_place(edit, placed)
            elif edit.operation == "recolor":
                open_colors[placed.id] = False
    scene = edits[-1].target
    objects = sorted(scene.objects, key=lambda placed: placed.id in open_places)
    return [
        Wanted(
            name=placed.name,
            reflection=placed.reflection,
            color="" if open_colors.get(placed.id) or scene.effect in COLORLESS else placed.looks,
            stands=open_places.get(placed.id) or _exactly(placed),
        )
        for placed in objects
    ]


def _exactly(placed: Placed) -> Place:
    """Where and as big as an object is."""

    def stands(seen: Seen) -> bool:
        ratio = math.sqrt(max(_area(seen.box), 1e-9) / _area(placed.box))
        return iou(seen.box, placed.box) >= SAME_PLACE_IOU and 1 / SAME_SIZE <= ratio <= SAME_SIZE

    return stands


def _asked_place(edit: Edit, placed: Placed) -> Place:
    """Where the words of an edit want its new object."""
    if edit.operation == "replace":
        return lambda seen: abs(seen.middle - placed.x) <= SAME_FOOT and abs(seen.box[3] - placed.y) <= SAME_FOOT
    text = edit.instruction.removesuffix(".")
    if text.endswith("at the top"):
        return lambda seen: seen.box[3] < TOP
    for side in ("left", "right"):
        borders = [other.x for other in edit.source.objects if _is_beside(edit.source, other, text, side)]
        border = borders[0] if borders else 0.5
        if borders or text.endswith(f"on the {side}"):
            return _left_of(border) if side == "left" else _right_of(border)
    raise ValueError(f"{edit.instruction!r} says no place that is known here")


def _is_beside(scene: Scene, other: Placed, text: str, side: str) -> bool:
    return any(text.endswith(f"to the {side} of {who}") for who in language.expressions(scene, other))


def _left_of(border: float) -> Place:
    return lambda seen: seen.middle < border


def _right_of(border: float) -> Place:
    return lambda seen: seen.middle > border


def _missing(wanted: Wanted, left: Sequence[Seen]) -> str:
    elsewhere = any(seen.name == wanted.name and seen.reflection == wanted.reflection for seen in left)
    return f"the {wanted.name} elsewhere" if elsewhere else f"no {wanted.name}"


def _same_mirror(scene: Scene, reading: Reading) -> bool:
    if scene.mirror is None or reading.mirror is None:
        return scene.mirror is None and reading.mirror is None
    there, read = (scene.mirror.x, scene.mirror.y), reading.mirror
    return all(abs(one - other) <= SAME_FOOT for one, other in zip(there, read, strict=True))


def _area(box: Sequence[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def true_reading(scene: Scene) -> Reading:
    """What a reader that never errs reads in a scene's picture."""
    objects = tuple(_as_seen(scene.objects))
    mirror = (scene.mirror.x, scene.mirror.y) if scene.mirror else None
    return Reading(objects, scene.background, scene.effect, mirror)


def _as_seen(objects: Sequence[Placed]) -> Iterator[Seen]:
    for placed in objects:
        yield Seen(placed.name, placed.box, placed.looks, placed.reflection, 1.0)
