"""Edits that must be understood: SmartEdit's complex scenes, where an instruction has to be worked out to be followed.

Six families, each with scenes of its own: which of two (by side, size or colour), several at once, what an object is
for, and whether a thing or its image in a mirror is meant.
"""

import random
from collections.abc import Callable
from typing import Literal

from fireedit.platform.data.scenes import edits, language, layout
from fireedit.platform.data.scenes.edits import Edit, Operation
from fireedit.platform.data.scenes.objects import THINGS
from fireedit.platform.data.scenes.scene import Placed, Scene
from fireedit.platform.data.scenes.world import World

REFLECTION_SHARE = 0.7
"""Of the mirror family; the others edit the thing outside the mirror."""

_REMOVE = ("Remove {what}.", "Delete {what}.")
_REPLACE = ("Change {what} to {new}.", "Replace {what} with {new}.")
_REMOVE_BY_USE = (
    "What is the object that can be used to {use}? Remove this object.",
    "Remove the object that can be used to {use}.",
    "Find the thing that can be used to {use} and take it away.",
)
_REPLACE_BY_USE = (
    "Replace the object that can be used to {use} with {new}.",
    "Which thing can be used to {use}? Change it to {new}.",
)


def left_right(world: World, rng: random.Random) -> Edit | None:
    return _one_of_two(world, rng, "side", lambda one, other: "left" if one.x < other.x else "right")


def relative_size(world: World, rng: random.Random) -> Edit | None:
    return _one_of_two(world, rng, "size", lambda one, other: "bigger" if one.height > other.height else "smaller")


def color(world: World, rng: random.Random) -> Edit | None:
    return _one_of_two(world, rng, "color", lambda one, other: one.color)


def multiple(world: World, rng: random.Random) -> Edit | None:
    scene = layout.sample_scene(world, rng, count=4)
    first, second = rng.sample(scene.objects, 2)
    who, whom = language.refer(rng, scene, first), language.refer(rng, scene, second)
    if who is None or whom is None:
        return None
    ids = (first.id, second.id)
    text = rng.choice(("Remove {} and {}.", "Delete both {} and {}.", "Take away {} as well as {}."))
    return Edit(
        family="multiple",
        operation="remove",
        source=scene,
        target=scene.without(*ids),
        instruction=text.format(who, whom),
        edited=ids,
    )


def reasoning(world: World, rng: random.Random) -> Edit | None:
    name = rng.choice([name for name in world.things if THINGS[name].use])
    scene = layout.sample_scene(world, rng, must=(name,), count=rng.randint(2, 4))
    use = THINGS[name].use
    return _remove_or_replace(world, scene, scene.objects[0], rng, "reasoning", use, (_REMOVE_BY_USE, _REPLACE_BY_USE))


def mirror(world: World, rng: random.Random) -> Edit | None:
    """Only the reflection changes, or only the real thing: edits do what they say, not what optics would."""
    scene = layout.sample_mirror(world, rng)
    if scene is None:
        return None
    thing, reflection, _ = scene.objects
    chosen = reflection if rng.random() < REFLECTION_SHARE else thing
    who = language.refer(rng, scene, chosen)
    return _remove_or_replace(world, scene, chosen, rng, "mirror", who, (_REMOVE, _REPLACE)) if who else None


HardFamily = Callable[[World, random.Random], Edit | None]
HARD: dict[str, HardFamily] = {
    "left_right": left_right,
    "relative_size": relative_size,
    "color": color,
    "multiple": multiple,
    "reasoning": reasoning,
    "mirror": mirror,
}


def _one_of_two(
    world: World,
    rng: random.Random,
    differ: Literal["side", "size", "color"],
    word: Callable[[Placed, Placed], str],
) -> Edit | None:
    scene = layout.sample_twins(world, rng, differ)
    if scene is None:
        return None
    chosen, other = rng.sample(scene.objects, 2)
    thing = chosen.thing
    noun = thing.category if thing.category in language.NAMED_CATEGORIES and rng.random() < 0.4 else thing.name
    family = {"side": "left_right", "size": "relative_size", "color": "color"}[differ]
    what = f"the {word(chosen, other)} {noun}"
    return _remove_or_replace(world, scene, chosen, rng, family, what, (_REMOVE, _REPLACE))


def _remove_or_replace(
    world: World,
    scene: Scene,
    chosen: Placed,
    rng: random.Random,
    family: str,
    what: str,
    texts: tuple[tuple[str, ...], tuple[str, ...]],
) -> Edit | None:
    """Take `chosen` away or exchange it, with one of the two lists of wordings; `{what}` and `{use}` become `what`."""
    operation: Operation = "remove" if rng.random() < 0.4 else "replace"
    if operation == "remove":
        target, text = scene.without(chosen.id), rng.choice(texts[0]).format(what=what, use=what)
    else:
        new = edits.exchange(world, scene, chosen, rng)
        if new is None:
            return None
        target = scene.with_changed(new)
        text = rng.choice(texts[1]).format(what=what, use=what, new=edits.one(new))
    return Edit(family=family, operation=operation, source=scene, target=target, instruction=text, edited=(chosen.id,))
