"""Lessons for the LLM at nano size: exact questions and answers about drawn scenes.

The uses and categories of things that are `taught` in dialogue are said here, of objects in questions and references,
and in no instruction but those of the world `knowledge`, which nobody learns from.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from fireedit.models.layers.boxes import box_iou
from fireedit.platform.scenes import dialogue, language
from fireedit.platform.scenes.edits import Edit
from fireedit.platform.scenes.families import NO_OP, NO_OP_SHARE, follow_up, make_edit
from fireedit.platform.scenes.referring import make_reference, taught_expressions
from fireedit.platform.scenes.scene import Box, Placed, Scene
from fireedit.platform.scenes.world import WORLDS, World

KINDS = {
    "colour": "What color is ",
    "count": "How many ",
    "presence": "Is there ",
    "side": r"Is the .* to the left or ",
    "use": "Which object in the image can be used|What in the image can be used|What can the ",
    "kind": "Which object in the image is|What kind of thing is",
    "background": "What is in the background",
    "description": "Describe ",
}
"""Kinds of the questions of dialogue.py, by how they begin."""
JITTER = 0.08
"""How far an edge of a given region is off, in sides of its box, at most."""
BY_USE_SHARE, AFTER_SHARE = 0.3, 0.5
"""Of the lessons on instructions: such as name their object by its use; such as ask what the picture shows then."""
EMPTY_REGIONS = 2
"""Regions without an object that are given, at most."""
KNOWLEDGE = WORLDS["knowledge"]
"""Its instructions name an object only by a use that dialogues alone have told."""


@dataclass(frozen=True)
class Turn:
    kind: str
    question: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What is asked about one scene."""

    scene: Scene
    turns: tuple[Turn, ...]
    """Empty for a lesson of words alone: the scene's caption."""
    regions: tuple[Box, ...] = ()
    """What the questions mean by region 1, 2, ...; the proposer's regions are shown where there are none."""


def make_lesson(world: World, seed: int) -> Lesson:
    """The lesson of a seed of a world."""
    rng = random.Random(f"lesson {seed}")
    draws: dict[Callable[[World, int, random.Random], Lesson], float] = {
        _questions: 0.22,
        _instructions: 0.28,
        _regions: 0.3,
        _references: 0.12,
        _words: 0.08,
    }
    return rng.choices(list(draws), list(draws.values()))[0](world, seed, rng)


def meant(edit: Edit) -> str:
    """What an instruction is about, as one sees it in the source, and nothing of what is done to it."""
    if edit.family == NO_OP:
        return "Nothing."
    if not edit.edited:
        return "The background." if edit.operation == "background" else "The whole picture."
    if edit.operation == "add":
        new = [placed for placed in edit.target.objects if placed.id in edit.edited]
        return language.sentence(f"a new {language.singular(new[0].thing, new[0].color)}")
    return _told(edit.source, edit.edited)


def _told(scene: Scene, ids: Sequence[int]) -> str:
    there = {placed.id: placed for placed in scene.objects}
    return language.sentence(language.joined([f"the {told(there[number])}" for number in ids])) if ids else "Nothing."


def told(placed: Placed) -> str:
    """An object by what one sees of it: "red car on the left"."""
    side = "left" if placed.x < 0.5 else "right"
    noun = language.singular(placed.thing, placed.looks)
    return f"{noun} on the {side}{' in the mirror' if placed.reflection else ''}"


def _questions(world: World, seed: int, rng: random.Random) -> Lesson:
    """All that dialogue.py asks about a scene."""
    scene = make_edit(world, seed).source
    turns = [Turn(_kind(question), question, answer) for question, answer in dialogue.dialogue(world, scene, seed)]
    return Lesson(scene=scene, turns=tuple(turns))


def _instructions(world: World, seed: int, rng: random.Random) -> Lesson:
    """What instructions mean in a scene, and what the picture would show after the first."""
    family = rng.choices((NO_OP, "reasoning", None), (NO_OP_SHARE, BY_USE_SHARE, 1 - NO_OP_SHARE - BY_USE_SHARE))[0]
    first = make_edit(world, seed, family)
    more = [follow_up(world, first.source, rng) for _ in range(2)]
    edits = [first, *(edit for edit in more if edit)]
    turns = [Turn("meant", f"{edit.instruction} What is meant?", meant(edit)) for edit in edits]
    turns += [_plainly(edit.instruction, edit.plain) for edit in edits[:2]]
    if rng.random() < AFTER_SHARE:
        wanted = f"After the edit: {language.caption(first.target)}"
        turns.append(Turn("after", f"{first.instruction} What does the picture show then?", wanted))
    rng.shuffle(turns)
    return Lesson(scene=first.source, turns=tuple(turns))


def known_by_use(seed: int) -> Lesson:
    """An instruction of the world `knowledge`."""
    edit = make_edit(KNOWLEDGE, seed)
    turns = _plainly(edit.instruction, edit.plain), Turn("meant", f"{edit.instruction} What is meant?", meant(edit))
    return Lesson(scene=edit.source, turns=tuple(replace(turn, kind=f"knowledge_{turn.kind}") for turn in turns))


def _plainly(text: str, plain: str) -> Turn:
    return Turn("plain", f"{text} Say it plainly.", plain)


def _references(world: World, seed: int, rng: random.Random) -> Lesson:
    """What expressions mean in a scene, also by uses and categories that only dialogue and reference teach."""
    reference = make_reference(world, seed)
    scene, text = reference.scene, _the(reference.expression)
    turns = [Turn("meant", f"{text} What is meant?", _told(scene, reference.ids))]
    if reference.ids:
        turns.append(_plainly(text, _the(reference.plain)))
    for placed in scene.objects:
        if taught := taught_expressions(scene, placed):
            who, name = rng.choice(taught), _the(placed.name)
            asked = Turn("named", f"What is {who}?", name)
            turns.append(asked if rng.random() < 0.5 else _plainly(language.sentence(who), name))
    rng.shuffle(turns)
    return Lesson(scene=scene, turns=tuple(turns))


def _the(expression: str) -> str:
    """A reference as a sentence: "The red car on the left.", "All the animals."."""
    return language.sentence(expression if expression.startswith("all ") else f"the {expression}")


def _regions(world: World, seed: int, rng: random.Random) -> Lesson:
    """Which region is what: all objects' boxes, a little off, and some that hold nothing, in any order."""
    edit = make_edit(world, seed)
    objects = edit.source.objects
    shown: list[tuple[Placed | None, Box]] = [(placed, _jittered(placed.box, rng)) for placed in objects]
    shown += [(None, box) for box in _empty_boxes(objects, rng)]
    rng.shuffle(shown)
    number_of = {placed.id: number for number, (placed, _) in enumerate(shown, 1) if placed}
    turns = []
    for number, (placed, _) in enumerate(shown, 1):
        answer = language.sentence(language.a(told(placed))) if placed else "Nothing."
        turns.append(Turn("region", f"What is region {number}?", answer))
    for placed in objects:
        ways = [language.refer(rng, edit.source, placed), *taught_expressions(edit.source, placed)]
        if who := rng.choice(ways):
            turns.append(Turn("which_region", f"Which region is {who}?", f"Region {number_of[placed.id]}."))
    numbers = [str(number_of[number]) for number in edit.edited if number in number_of]
    if numbers:
        answer = f"Region {' and '.join(numbers)}."
        turns.append(Turn("meant_region", f"{edit.instruction} Which region is meant?", answer))
    rng.shuffle(turns)
    return Lesson(scene=edit.source, turns=tuple(turns), regions=tuple(box for _, box in shown))


def _words(world: World, seed: int, rng: random.Random) -> Lesson:
    return Lesson(scene=make_edit(world, seed).target, turns=())


def _kind(question: str) -> str:
    return next(kind for kind, beginning in KINDS.items() if re.match(beginning, question))


def _jittered(box: Box, rng: random.Random) -> Box:
    """A box as a proposer might draw it."""
    left, top, right, bottom = box
    width, height = (right - left) * JITTER, (bottom - top) * JITTER
    edges = zip(box, (width, height, width, height), strict=True)
    left, top, right, bottom = (min(1.0, max(0.0, edge + rng.uniform(-off, off))) for edge, off in edges)
    return left, top, right, bottom


def _empty_boxes(objects: tuple[Placed, ...], rng: random.Random) -> list[Box]:
    """A few boxes that have next to nothing in common with those of the objects."""
    taken, found = torch.tensor([placed.box for placed in objects]), list[Box]()
    for _ in range(rng.randint(0, EMPTY_REGIONS)):
        width, height = rng.uniform(0.2, 0.4), rng.uniform(0.2, 0.4)
        left, top = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
        box = (left, top, left + width, top + height)
        if float(box_iou(torch.tensor([box]), taken).max()) < 0.05:
            found.append(box)
    return found
