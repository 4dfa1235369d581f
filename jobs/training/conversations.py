"""Training conversations for the LLM at nano size: exact questions and answers about procedural scenes.

Uses and categories of the things `taught` in dialogue occur here in questions and references, and in no instruction
but those of the world `knowledge`, which is never trained on.
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
"""Pattern of the beginning of each kind of question of dialogue.py."""
JITTER = 0.08
"""Largest offset of an edge of a given region, in sides of its box."""
BY_USE_SHARE = 0.3
"""Share of the conversations about instructions that name their object by its use."""
AFTER_SHARE = 0.5
"""Share of the conversations about instructions that ask for the image after the edit."""
EMPTY_REGIONS = 2
"""Largest number of given regions without an object."""
KNOWLEDGE = WORLDS["knowledge"]
"""World whose instructions name an object by a use that only dialogue teaches."""


@dataclass(frozen=True)
class QuestionAnswer:
    """Turn of a conversation."""

    kind: str
    question: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """Questions and answers about one scene."""

    scene: Scene
    turns: tuple[QuestionAnswer, ...]
    """Empty where the LLM learns the scene's caption without the image."""
    regions: tuple[Box, ...] = ()
    """Boxes of region 1, 2, ...; the proposer's are used where there are none."""


def make_conversation(world: World, seed: int) -> Conversation:
    """Make the conversation of a seed of a world."""
    rng = random.Random(f"lesson {seed}")
    draws: dict[Callable[[World, int, random.Random], Conversation], float] = {
        _questions: 0.22,
        _instructions: 0.28,
        _regions: 0.3,
        _references: 0.12,
        _words: 0.08,
    }
    return rng.choices(list(draws), list(draws.values()))[0](world, seed, rng)


def referent(edit: Edit) -> str:
    """Describe the object of an instruction by its appearance in the source."""
    if edit.family == NO_OP:
        return "Nothing."
    if not edit.edited:
        return "The background." if edit.operation == "background" else "The whole picture."
    if edit.operation == "add":
        new = [placed for placed in edit.target.objects if placed.id in edit.edited]
        return language.sentence(f"a new {language.singular(new[0].thing, new[0].color)}")
    return _describe_all(edit.source, edit.edited)


def _describe_all(scene: Scene, ids: Sequence[int]) -> str:
    """Describe some objects of a scene in one sentence."""
    by_id = {placed.id: placed for placed in scene.objects}
    phrases = [f"the {describe(by_id[number])}" for number in ids]
    return language.sentence(language.joined(phrases)) if phrases else "Nothing."


def describe(placed: Placed) -> str:
    """Describe an object by its appearance: "red car on the left"."""
    side = "left" if placed.x < 0.5 else "right"
    noun = language.singular(placed.thing, placed.looks)
    return f"{noun} on the {side}{' in the mirror' if placed.reflection else ''}"


def _questions(world: World, seed: int, rng: random.Random) -> Conversation:
    """Ask all questions of dialogue.py about a scene."""
    scene = make_edit(world, seed).source
    turns = []
    for question, answer in dialogue.dialogue(world, scene, seed):
        kind = next(kind for kind, beginning in KINDS.items() if re.match(beginning, question))
        turns.append(QuestionAnswer(kind, question, answer))
    return Conversation(scene=scene, turns=tuple(turns))


def _instructions(world: World, seed: int, rng: random.Random) -> Conversation:
    """Ask for the referents of instructions in a scene, and for the image after the first one."""
    family = rng.choices((NO_OP, "reasoning", None), (NO_OP_SHARE, BY_USE_SHARE, 1 - NO_OP_SHARE - BY_USE_SHARE))[0]
    first = make_edit(world, seed, family)
    more = [follow_up(world, first.source, rng) for _ in range(2)]
    edits = [first, *(edit for edit in more if edit)]
    turns = [QuestionAnswer("meant", f"{edit.instruction} What is meant?", referent(edit)) for edit in edits]
    turns += [_plainly(edit.instruction, edit.plain) for edit in edits[:2]]
    if rng.random() < AFTER_SHARE:
        answer = f"After the edit: {language.caption(first.target)}"
        turns.append(QuestionAnswer("after", f"{first.instruction} What does the picture show then?", answer))
    rng.shuffle(turns)
    return Conversation(scene=first.source, turns=tuple(turns))


def conversation_by_use(seed: int) -> Conversation:
    """Ask about an instruction of the world `knowledge`."""
    edit = make_edit(KNOWLEDGE, seed)
    meant = QuestionAnswer("meant", f"{edit.instruction} What is meant?", referent(edit))
    turns = _plainly(edit.instruction, edit.plain), meant
    return Conversation(scene=edit.source, turns=tuple(replace(turn, kind=f"knowledge_{turn.kind}") for turn in turns))


def _plainly(text: str, plain: str) -> QuestionAnswer:
    """Ask for the plain form of an instruction or reference."""
    return QuestionAnswer("plain", f"{text} Say it plainly.", plain)


def _references(world: World, seed: int, rng: random.Random) -> Conversation:
    """Ask for the referents of expressions, also of uses and categories that only dialogue and references teach."""
    reference = make_reference(world, seed)
    scene, text = reference.scene, _the(reference.expression)
    turns = [QuestionAnswer("meant", f"{text} What is meant?", _describe_all(scene, reference.ids))]
    if reference.ids:
        turns.append(_plainly(text, _the(reference.plain)))
    for placed in scene.objects:
        if taught := taught_expressions(scene, placed):
            expression, name = rng.choice(taught), _the(placed.name)
            question = QuestionAnswer("named", f"What is {expression}?", name)
            turns.append(question if rng.random() < 0.5 else _plainly(language.sentence(expression), name))
    rng.shuffle(turns)
    return Conversation(scene=scene, turns=tuple(turns))


def _the(expression: str) -> str:
    """Make a sentence of a reference: "The red car on the left.", "All the animals."."""
    return language.sentence(expression if expression.startswith("all ") else f"the {expression}")


def _regions(world: World, seed: int, rng: random.Random) -> Conversation:
    """Ask for the contents of regions: jittered boxes of all objects, and some empty ones, in random order."""
    edit = make_edit(world, seed)
    objects = edit.source.objects
    regions: list[tuple[Placed | None, Box]] = [(placed, _jittered(placed.box, rng)) for placed in objects]
    regions += [(None, box) for box in _empty_boxes(objects, rng)]
    rng.shuffle(regions)
    number_of = {placed.id: number for number, (placed, _) in enumerate(regions, 1) if placed}
    turns = []
    for number, (placed, _) in enumerate(regions, 1):
        answer = language.sentence(language.a(describe(placed))) if placed else "Nothing."
        turns.append(QuestionAnswer("region", f"What is region {number}?", answer))
    for placed in objects:
        expressions = [language.refer(rng, edit.source, placed), *taught_expressions(edit.source, placed)]
        if expression := rng.choice(expressions):
            question = f"Which region is {expression}?"
            turns.append(QuestionAnswer("which_region", question, f"Region {number_of[placed.id]}."))
    numbers = [str(number_of[number]) for number in edit.edited if number in number_of]
    if numbers:
        answer = f"Region {' and '.join(numbers)}."
        turns.append(QuestionAnswer("meant_region", f"{edit.instruction} Which region is meant?", answer))
    rng.shuffle(turns)
    return Conversation(scene=edit.source, turns=tuple(turns), regions=tuple(box for _, box in regions))


def _words(world: World, seed: int, rng: random.Random) -> Conversation:
    """Learn the caption of a scene, without the image."""
    return Conversation(scene=make_edit(world, seed).target, turns=())


def _jittered(box: Box, rng: random.Random) -> Box:
    """Move the edges of a box at random."""
    left, top, right, bottom = box
    width, height = (right - left) * JITTER, (bottom - top) * JITTER
    edges = zip(box, (width, height, width, height), strict=True)
    left, top, right, bottom = (min(1.0, max(0.0, edge + rng.uniform(-off, off))) for edge, off in edges)
    return left, top, right, bottom


def _empty_boxes(objects: tuple[Placed, ...], rng: random.Random) -> list[Box]:
    """Draw a few boxes that hardly overlap those of the objects."""
    occupied, empty = torch.tensor([placed.box for placed in objects]), list[Box]()
    for _ in range(rng.randint(0, EMPTY_REGIONS)):
        width, height = rng.uniform(0.2, 0.4), rng.uniform(0.2, 0.4)
        left, top = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
        box = (left, top, left + width, top + height)
        if float(box_iou(torch.tensor([box]), occupied).max()) < 0.05:
            empty.append(box)
    return empty
