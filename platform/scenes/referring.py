"""Expressions that mean no, one or several objects of a scene, as in gRefCOCO."""

import dataclasses
import random
from collections import Counter

from fireedit.platform.scenes import language, layout
from fireedit.platform.scenes.objects import THINGS
from fireedit.platform.scenes.scene import Placed, Scene
from fireedit.platform.scenes.world import World

GROUP_CATEGORIES = ("animal", "vehicle", "plant")
TAUGHT_SHARE = 0.4
"""Share of the references that name an object by its use or category, of those that could; a third of all to one."""


@dataclasses.dataclass(frozen=True)
class Reference:
    """A scene, an expression, and which objects it means."""

    scene: Scene
    expression: str
    """Without a leading article for one object: "red car on the left", "all the animals"."""
    ids: tuple[int, ...]
    """Empty if nothing in the scene fits the expression."""
    plain: str
    """The same in words that name the objects; the expression itself where that does."""


def make_reference(world: World, seed: int) -> Reference:
    """The reference of a seed; about a third each mean one, several and no objects.

    Raises:
        ValueError: the seed is of another world.
    """
    world.require(seed)
    rng = random.Random(seed)
    draw = rng.choice((_to_one, _to_several, _to_none))
    while True:
        scene = _scene(world, rng)
        if (reference := draw(world, scene, rng)) is not None:
            return reference


def taught_expressions(scene: Scene, placed: Placed) -> list[str]:
    """Expressions by use and by category, each beginning with "the", that mean this object and no other of the scene.

    They are said of all things, also of those whose use and category no instruction and no caption tells. Scenes with a
    mirror have none.
    """
    if scene.mirror is not None:
        return []
    thing, others = placed.thing, [other.thing for other in scene.objects if other.id != placed.id]
    found = [f"the object that can be used to {thing.use}"] if thing.use and thing not in others else []
    if all(thing.category != other.category for other in others):
        found.append(f"the {language.kind(thing)}")
    return found


def _scene(world: World, rng: random.Random) -> Scene:
    if rng.random() < 0.4 and (twins := layout.sample_twins(world, rng, rng.choice(("side", "size", "color")))):
        return twins
    return layout.sample_scene(world, rng, count=rng.randint(3, 4))


def _to_one(world: World, scene: Scene, rng: random.Random) -> Reference | None:
    placed = rng.choice(scene.objects)
    who = language.refer(rng, scene, placed)
    if who is None:
        return None
    plain = language.named(who, placed.thing)
    taught = taught_expressions(scene, placed)
    if taught and rng.random() < TAUGHT_SHARE:
        who, plain = rng.choice(taught), f"the {placed.name}"
    return Reference(scene, who.removeprefix("the "), (placed.id,), plain.removeprefix("the "))


def _to_several(world: World, scene: Scene, rng: random.Random) -> Reference | None:
    category = rng.choice(scene.objects).thing.category
    group = [placed for placed in scene.objects if placed.thing.category == category]
    if len(group) > 1 and category in GROUP_CATEGORIES:
        ids = tuple(placed.id for placed in group)
        return Reference(scene, f"all the {category}s", ids, _all_named(group))
    first, second = rng.sample(scene.objects, 2)
    who, whom = language.refer(rng, scene, first), language.refer(rng, scene, second)
    if who is None or whom is None:
        return None
    texts = f"{who} and {whom}", f"{language.named(who, first.thing)} and {language.named(whom, second.thing)}"
    expression, plain = (text.removeprefix("the ") for text in texts)
    return Reference(scene, expression, (first.id, second.id), plain)


def _to_none(world: World, scene: Scene, rng: random.Random) -> Reference | None:
    """A thing that is not there, or one that is there in other colours."""
    placed = rng.choice(scene.objects)
    if placed.paint and rng.random() < 0.5:
        shown = {other.looks for other in scene.objects if other.name == placed.name}
        color = rng.choice([color for color in world.colors if color not in shown])
        return _nothing(scene, f"{color} {placed.name}")
    absent = rng.choice([name for name in world.things if name not in scene.names])
    return _nothing(scene, rng.choice((absent, f"{absent} on the {rng.choice(('left', 'right'))}")))


def _nothing(scene: Scene, expression: str) -> Reference:
    return Reference(scene, expression, (), expression)


def _all_named(group: list[Placed]) -> str:
    """ "dogs and the duck": every object of a group by its name."""
    counts = Counter(placed.name for placed in group)
    phrases = [f"the {name}" if n == 1 else f"the {language.plural(THINGS[name])}" for name, n in counts.items()]
    return language.joined(phrases).removeprefix("the ")
