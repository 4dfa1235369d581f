"""Success of an edit: the requested change took place, and nothing else changed.

The reading of the edited picture is compared with the target scene object by object. Where an instruction leaves
something open, such as the place of an added object or the color of its replacement, every choice succeeds.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fireedit.jobs.evaluation.cases import EditCase
from fireedit.jobs.evaluation.scene_reader import DetectedObject, SceneReading, iou
from fireedit.platform.scenes import language
from fireedit.platform.scenes.edits import Edit
from fireedit.platform.scenes.scene import Placed, Scene

MIN_IOU = 0.5
"""Least IoU of an object with its expected box."""
MAX_SCALE = 1.22
"""Largest factor between the sides of an object and of its expected box: about half of a resize edit."""
MAX_SHIFT = 0.12
"""Largest distance, in picture sides, of a replacement from the object it replaces, or of the mirror from its place."""
TOP = 0.6
"""Height, in picture sides, that the lower edge of an object "at the top" is above."""
COLORLESS = ("black and white", "sepia")
"""Effects that hide colors."""

Place = Callable[[DetectedObject], bool]
"""Predicate: the object is where one is expected."""


@dataclass(frozen=True)
class ExpectedObject:
    """Object that the edited picture should show."""

    name: str
    reflection: bool
    color: str
    """Empty if any color succeeds."""
    place: Place

    def matches(self, detected: DetectedObject) -> bool:
        """Compare kind and place; the color is judged apart."""
        return detected.name == self.name and detected.reflection == self.reflection and self.place(detected)


def faults(edits: Sequence[Edit], reading: SceneReading) -> tuple[str, ...]:
    """Compare the reading of a picture with the target of an edit, or of the last of several consecutive edits.

    Returns:
        Reasons for a failure, such as "no dog" or "a cat too many"; none if the edit succeeds.
    """
    scene = edits[-1].target
    wrong, rest = [], list(reading.objects)
    for expected in expected_objects(edits):
        detected = next((detected for detected in rest if expected.matches(detected)), None)
        if detected is None:
            wrong.append(_missing(expected, rest))
            continue
        rest.remove(detected)
        if expected.color and detected.color != expected.color:
            wrong.append(f"a {detected.color} {detected.name}, not {expected.color}")
    wrong += [f"a {detected.name} too many" for detected in rest]
    if reading.background != scene.background:
        wrong.append(f"before {reading.background}")
    if reading.effect != scene.effect:
        wrong.append(reading.effect or "no effect")
    if not _same_mirror(scene, reading):
        wrong.append("the mirror")
    return tuple(wrong)


def verdicts(cases: Sequence[EditCase], readings: Sequence[SceneReading]) -> list[tuple[str, ...]]:
    """List the reasons for which each case's edited picture fails, none for a success."""
    return [faults([case.edit], reading) for case, reading in zip(cases, readings, strict=True)]


def expected_objects(edits: Sequence[Edit]) -> list[ExpectedObject]:
    """List the objects of the last of several consecutive edits' target, those with a definite place first."""
    open_places = dict[int, Place]()
    open_colors = dict[int, bool]()
    for edit in edits:
        for placed in edit.target.objects:
            if placed.id not in edit.edited:
                continue
            if edit.operation in ("add", "replace"):
                open_colors[placed.id] = not placed.color
                open_places[placed.id] = _open_place(edit, placed)
            elif edit.operation == "recolor":
                open_colors[placed.id] = False
    scene = edits[-1].target
    return [
        ExpectedObject(
            name=placed.name,
            reflection=placed.reflection,
            color="" if open_colors.get(placed.id) or scene.effect in COLORLESS else placed.looks,
            place=open_places.get(placed.id) or _exact_place(placed),
        )
        for placed in sorted(scene.objects, key=lambda placed: placed.id in open_places)
    ]


def _exact_place(placed: Placed) -> Place:
    """Accept objects at the place and of the size of `placed`."""

    def accepts(detected: DetectedObject) -> bool:
        ratio = math.sqrt(max(_area(detected.box), 1e-9) / _area(placed.box))
        return iou(detected.box, placed.box) >= MIN_IOU and 1 / MAX_SCALE <= ratio <= MAX_SCALE

    return accepts


def _open_place(edit: Edit, placed: Placed) -> Place:
    """Accept objects wherever the instruction allows its new object."""
    if edit.operation == "replace":
        return lambda new: abs(new.middle - placed.x) <= MAX_SHIFT and abs(new.box[3] - placed.y) <= MAX_SHIFT
    text = edit.instruction.removesuffix(".")
    if text.endswith("at the top"):
        return lambda new: new.box[3] < TOP
    for side in ("left", "right"):
        borders = [other.x for other in edit.source.objects if _is_beside(edit.source, other, text, side)]
        border = borders[0] if borders else 0.5
        if borders or text.endswith(f"on the {side}"):
            return _on_side(border, side)
    raise ValueError(f"instruction {edit.instruction!r} names no place; write one that ends 'on the left', for example")


def _is_beside(scene: Scene, other: Placed, text: str, side: str) -> bool:
    return any(text.endswith(f"to the {side} of {noun}") for noun in language.expressions(scene, other))


def _on_side(border: float, side: str) -> Place:
    return lambda new: new.middle < border if side == "left" else new.middle > border


def _missing(expected: ExpectedObject, rest: Sequence[DetectedObject]) -> str:
    elsewhere = any(new.name == expected.name and new.reflection == expected.reflection for new in rest)
    return f"the {expected.name} elsewhere" if elsewhere else f"no {expected.name}"


def _same_mirror(scene: Scene, reading: SceneReading) -> bool:
    if scene.mirror is None or reading.mirror is None:
        return scene.mirror is None and reading.mirror is None
    x, y = reading.mirror
    return abs(scene.mirror.x - x) <= MAX_SHIFT and abs(scene.mirror.y - y) <= MAX_SHIFT


def _area(box: Sequence[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
