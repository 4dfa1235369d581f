"""Edits that must be understood: SmartEdit's complex scenes, where an instruction has to be worked out to be followed.

Seven families, each with scenes of its own: which of two (by side, size or colour), which of a row, several at once,
what an object is for, and whether a thing or its image in a mirror is meant.
"""

import dataclasses
import random
from collections.abc import Callable
from typing import Literal

from fireedit.platform.scenes import edits, language, layout
from fireedit.platform.scenes.edits import Edit, Operation
from fireedit.platform.scenes.objects import THINGS
from fireedit.platform.scenes.scene import Placed, Scene
from fireedit.platform.scenes.world import World

REFLECTION_SHARE = 0.7
"""Of the mirror family; the others edit the thing outside the mirror."""

_ORDINALS = ("first", "second", "third")

Texts = tuple[tuple[str, str], ...]
"""Wordings of a request, each with the plain one that means the same."""


@dataclasses.dataclass(frozen=True)
class _Wordings:
    """Ways to ask for two operations; `{what}` is an expression or a use, `{name}` plain words for the object."""

    remove: Texts
    replace: Texts
    """With `{new}`."""


_DIRECT = _Wordings(
    remove=(("Remove {what}.", "Remove {name}."), ("Delete {what}.", "Delete {name}.")),
    replace=(
        ("Change {what} to {new}.", "Change {name} to {new}."),
        ("Replace {what} with {new}.", "Replace {name} with {new}."),
    ),
)
_BY_USE = _Wordings(
    remove=(
        ("What is the object that can be used to {what}? Remove this object.", "Remove {name}."),
        ("Remove the object that can be used to {what}.", "Remove {name}."),
        ("Find the thing that can be used to {what} and take it away.", "Remove {name}."),
    ),
    replace=(
        ("Replace the object that can be used to {what} with {new}.", "Replace {name} with {new}."),
        ("Which thing can be used to {what}? Change it to {new}.", "Change {name} to {new}."),
    ),
)


def left_right(world: World, rng: random.Random) -> Edit | None:
    return _one_of_two(world, rng, "side", lambda one, other: "left" if one.x < other.x else "right")


def relative_size(world: World, rng: random.Random) -> Edit | None:
    return _one_of_two(world, rng, "size", lambda one, other: "bigger" if one.height > other.height else "smaller")


def color(world: World, rng: random.Random) -> Edit | None:
    return _one_of_two(world, rng, "color", lambda one, other: one.color)


def ordinal(world: World, rng: random.Random) -> Edit | None:
    scene = layout.sample_row(world, rng)
    if scene is None:
        return None
    place, side = rng.randrange(len(_ORDINALS)), rng.choice(("left", "right"))
    chosen = scene.objects[place if side == "left" else -1 - place]
    noun, name = _nouns(chosen, rng)
    what, plain = (f"the {_ORDINALS[place]} {word} from the {side}" for word in (noun, name))
    return _remove_or_replace(world, scene, chosen, rng, "ordinal", (what, plain), _DIRECT)


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
        plain=text.format(language.named(who, first.thing), language.named(whom, second.thing)),
        edited=ids,
    )


def reasoning(world: World, rng: random.Random) -> Edit | None:
    things = [THINGS[name] for name in world.things]
    name = rng.choice([thing.name for thing in things if thing.use and thing.taught == world.reasons_about])
    scene = layout.sample_scene(world, rng, must=(name,), count=rng.randint(2, 4))
    said = THINGS[name].use, f"the {name}"
    return _remove_or_replace(world, scene, scene.objects[0], rng, "reasoning", said, _BY_USE)


def mirror(world: World, rng: random.Random) -> Edit | None:
    """Only the reflection changes, or only the real thing: edits do what they say, not what optics would."""
    scene = layout.sample_mirror(world, rng)
    if scene is None:
        return None
    thing, reflection, _ = scene.objects
    chosen = reflection if rng.random() < REFLECTION_SHARE else thing
    who = language.refer(rng, scene, chosen)
    if who is None:
        return None
    said = who, language.named(who, chosen.thing)
    return _remove_or_replace(world, scene, chosen, rng, "mirror", said, _DIRECT)


HardFamily = Callable[[World, random.Random], Edit | None]
HARD: dict[str, HardFamily] = {
    "left_right": left_right,
    "relative_size": relative_size,
    "color": color,
    "ordinal": ordinal,
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
    family = {"side": "left_right", "size": "relative_size", "color": "color"}[differ]
    noun, name = _nouns(chosen, rng)
    said = f"the {word(chosen, other)} {noun}", f"the {word(chosen, other)} {name}"
    return _remove_or_replace(world, scene, chosen, rng, family, said, _DIRECT)


def _nouns(placed: Placed, rng: random.Random) -> tuple[str, str]:
    """A noun for an object, now and then its category's, and the noun of its name."""
    name = language.singular(placed.thing)
    return placed.thing.category if language.names_category(placed.thing) and rng.random() < 0.4 else name, name


def _remove_or_replace(
    world: World,
    scene: Scene,
    chosen: Placed,
    rng: random.Random,
    family: str,
    said: tuple[str, str],
    wordings: _Wordings,
) -> Edit | None:
    """Take `chosen` away or exchange it; `said` are what the instruction calls it, or its use, and plain words."""
    operation: Operation = "remove" if rng.random() < 0.4 else "replace"
    if operation == "remove":
        target, new, texts = scene.without(chosen.id), "", wordings.remove
    else:
        exchanged = edits.exchange(world, scene, chosen, rng)
        if exchanged is None:
            return None
        target, new, texts = scene.with_changed(exchanged), edits.one(exchanged), wordings.replace
    instruction, plain = (text.format(what=said[0], name=said[1], new=new) for text in rng.choice(texts))
    return Edit(
        family=family,
        operation=operation,
        source=scene,
        target=target,
        instruction=instruction,
        plain=plain,
        edited=(chosen.id,),
    )
