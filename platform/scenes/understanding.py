"""Edits with instructions that need reasoning, after SmartEdit's complex scenes.

Seven families, each with scenes of its own: one of two objects (by side, size or color), one of a row, several objects
at once, an object by its use, and an object or its reflection in a mirror.
"""

import random
from collections.abc import Callable
from typing import Literal

from fireedit.platform.scenes import edits, language, layout
from fireedit.platform.scenes.edits import Edit, Operation
from fireedit.platform.scenes.objects import THINGS
from fireedit.platform.scenes.scene import Placed, Scene
from fireedit.platform.scenes.world import World

REFLECTION_SHARE = 0.7
"""Share of the mirror family that edits the reflection; the others edit the object outside the mirror."""

_ORDINALS = ("first", "second", "third")

Phrases = tuple[str, str]
"""Expression for an object, or its use, and plain words for the object."""
Texts = tuple[tuple[str, str], ...]
"""Templates of an instruction, each with its plain form: `{what}` and `{name}` are the two phrases,
`{new}` is the noun phrase of the object that comes in."""


_DIRECT: dict[Operation, Texts] = {
    "remove": (("Remove {what}.", "Remove {name}."), ("Delete {what}.", "Delete {name}.")),
    "replace": (
        ("Change {what} to {new}.", "Change {name} to {new}."),
        ("Replace {what} with {new}.", "Replace {name} with {new}."),
    ),
}
_BY_USE: dict[Operation, Texts] = {
    "remove": (
        ("What is the object that can be used to {what}? Remove this object.", "Remove {name}."),
        ("Remove the object that can be used to {what}.", "Remove {name}."),
        ("Find the thing that can be used to {what} and take it away.", "Remove {name}."),
    ),
    "replace": (
        ("Replace the object that can be used to {what} with {new}.", "Replace {name} with {new}."),
        ("Which thing can be used to {what}? Change it to {new}.", "Change {name} to {new}."),
    ),
}


def left_right(world: World, rng: random.Random) -> Edit | None:
    return _one_of_two(world, rng, "side", lambda placed, other: "left" if placed.x < other.x else "right")


def relative_size(world: World, rng: random.Random) -> Edit | None:
    return _one_of_two(world, rng, "size", lambda placed, other: ("smaller", "bigger")[placed.height > other.height])


def color(world: World, rng: random.Random) -> Edit | None:
    return _one_of_two(world, rng, "color", lambda placed, other: placed.color)


def ordinal(world: World, rng: random.Random) -> Edit | None:
    scene = layout.sample_row(world, rng)
    if scene is None:
        return None
    place, side = rng.randrange(len(_ORDINALS)), rng.choice(("left", "right"))
    chosen = scene.objects[place if side == "left" else -1 - place]
    noun, name = _nouns(chosen, rng)
    what, plain = (f"the {_ORDINALS[place]} {word} from the {side}" for word in (noun, name))
    return _remove_or_replace(world, scene, chosen, rng, "ordinal", (what, plain))


def multiple(world: World, rng: random.Random) -> Edit | None:
    scene = layout.sample_scene(world, rng, count=4)
    first, second = rng.sample(scene.objects, 2)
    one, other = language.refer(rng, scene, first), language.refer(rng, scene, second)
    if one is None or other is None:
        return None
    text = rng.choice(("Remove {} and {}.", "Delete both {} and {}.", "Take away {} as well as {}."))
    texts = text.format(one, other), text.format(language.named(one, first.thing), language.named(other, second.thing))
    return edits.make("remove", scene, scene.without(first.id, second.id), texts, first, second, family="multiple")


def reasoning(world: World, rng: random.Random) -> Edit | None:
    things = [THINGS[name] for name in world.things]
    name = rng.choice([thing.name for thing in things if thing.use and thing.taught == world.reasons_about])
    scene = layout.sample_scene(world, rng, required=(name,), count=rng.randint(2, 4))
    phrases = THINGS[name].use, f"the {name}"
    return _remove_or_replace(world, scene, scene.objects[0], rng, "reasoning", phrases, by_use=True)


def mirror(world: World, rng: random.Random) -> Edit | None:
    """Edit only the reflection or only the real object: the target follows the instruction, not optics."""
    scene = layout.sample_mirror(world, rng)
    if scene is None:
        return None
    thing, reflection, _ = scene.objects
    chosen = reflection if rng.random() < REFLECTION_SHARE else thing
    expression = language.refer(rng, scene, chosen)
    if expression is None:
        return None
    phrases = expression, language.named(expression, chosen.thing)
    return _remove_or_replace(world, scene, chosen, rng, "mirror", phrases)


HardFamily = Callable[[World, random.Random], Edit | None]
HARD: dict[str, HardFamily] = {
    draw.__name__: draw for draw in (left_right, relative_size, color, ordinal, multiple, reasoning, mirror)
}
"""Families by name."""


def _one_of_two(
    world: World, rng: random.Random, differ: Literal["side", "size", "color"], word: Callable[[Placed, Placed], str]
) -> Edit | None:
    scene = layout.sample_twins(world, rng, differ)
    if scene is None:
        return None
    chosen, other = rng.sample(scene.objects, 2)
    family = {"side": "left_right", "size": "relative_size", "color": "color"}[differ]
    noun, name = _nouns(chosen, rng)
    phrases = f"the {word(chosen, other)} {noun}", f"the {word(chosen, other)} {name}"
    return _remove_or_replace(world, scene, chosen, rng, family, phrases)


def _nouns(placed: Placed, rng: random.Random) -> tuple[str, str]:
    """Draw a noun for an object, sometimes its category's, and return it with the noun of its name."""
    name = language.singular(placed.thing)
    return placed.thing.category if language.names_category(placed.thing) and rng.random() < 0.4 else name, name


def _remove_or_replace(
    world: World, scene: Scene, chosen: Placed, rng: random.Random, family: str, phrases: Phrases, by_use: bool = False
) -> Edit | None:
    operation: Operation = "remove" if rng.random() < 0.4 else "replace"
    if operation == "remove":
        target, new = scene.without(chosen.id), ""
    elif exchanged := edits.exchange(world, scene, chosen, rng):
        target, new = scene.with_changed(exchanged), edits.noun_phrase(exchanged)
    else:
        return None
    templates = rng.choice((_BY_USE if by_use else _DIRECT)[operation])
    instruction, plain = (text.format(what=phrases[0], name=phrases[1], new=new) for text in templates)
    return edits.make(operation, scene, target, (instruction, plain), chosen, family=family)
