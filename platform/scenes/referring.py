"""Referring expressions for none, one or several objects of a scene, as in gRefCOCO."""

import dataclasses
import random
from collections import Counter

from fireedit.platform.scenes import language, layout
from fireedit.platform.scenes.objects import THINGS
from fireedit.platform.scenes.scene import Placed, Scene
from fireedit.platform.scenes.world import World

GROUP_CATEGORIES = ("animal", "vehicle", "plant")
TAUGHT_SHARE = 0.4
"""Share of the single-object references that name it by use or category, of those that can."""


@dataclasses.dataclass(frozen=True)
class Reference:
    """A scene, an expression, and the objects that it means."""

    scene: Scene
    expression: str
    """Expression without its leading article: "red car on the left", "all the animals"."""
    ids: tuple[int, ...]
    """Ids of the objects; empty if nothing in the scene fits the expression."""
    plain: str
    """The same with objects called by their names; equal to the expression where that does so."""


def make_reference(world: World, seed: int) -> Reference:
    """Draw the reference of a seed; about a third each mean one, several and no objects.

    Raises:
        ValueError: the seed belongs to another world.
    """
    world.require(seed)
    rng = random.Random(seed)
    draw = rng.choice((_to_one, _to_several, _to_none))
    while True:
        if reference := draw(world, _scene(world, rng), rng):
            return reference


def taught_expressions(scene: Scene, placed: Placed) -> list[str]:
    """List expressions by use and category, each beginning with "the", that mean this object and no other of the scene.

    They cover all things, also those whose use and category no instruction or caption mentions. Scenes with a mirror
    have none.
    """
    if scene.mirror is not None:
        return []
    thing, others = placed.thing, [other.thing for other in scene.objects if other.id != placed.id]
    texts = [f"the object that can be used to {thing.use}"] if thing.use and thing not in others else []
    if all(thing.category != other.category for other in others):
        texts.append(f"the {language.kind(thing)}")
    return texts


def _scene(world: World, rng: random.Random) -> Scene:
    if rng.random() < 0.4 and (twins := layout.sample_twins(world, rng, rng.choice(("side", "size", "color")))):
        return twins
    return layout.sample_scene(world, rng, count=rng.randint(3, 4))


def _to_one(world: World, scene: Scene, rng: random.Random) -> Reference | None:
    placed = rng.choice(scene.objects)
    expression = language.refer(rng, scene, placed)
    if expression is None:
        return None
    plain = language.named(expression, placed.thing)
    taught = taught_expressions(scene, placed)
    if taught and rng.random() < TAUGHT_SHARE:
        expression, plain = rng.choice(taught), f"the {placed.name}"
    return Reference(scene, expression.removeprefix("the "), (placed.id,), plain.removeprefix("the "))


def _to_several(world: World, scene: Scene, rng: random.Random) -> Reference | None:
    category = rng.choice(scene.objects).thing.category
    group = [placed for placed in scene.objects if placed.thing.category == category]
    if len(group) > 1 and category in GROUP_CATEGORIES:
        ids = tuple(placed.id for placed in group)
        return Reference(scene, f"all the {category}s", ids, _all_named(group))
    first, second = rng.sample(scene.objects, 2)
    one, other = language.refer(rng, scene, first), language.refer(rng, scene, second)
    if one is None or other is None:
        return None
    texts = f"{one} and {other}", f"{language.named(one, first.thing)} and {language.named(other, second.thing)}"
    expression, plain = (text.removeprefix("the ") for text in texts)
    return Reference(scene, expression, (first.id, second.id), plain)


def _to_none(world: World, scene: Scene, rng: random.Random) -> Reference | None:
    """Refer to a thing that the scene does not show, or shows in other colors only."""
    placed = rng.choice(scene.objects)
    if placed.paint and rng.random() < 0.5:
        shown = {other.looks for other in scene.objects if other.name == placed.name}
        expression = f"{rng.choice([color for color in world.colors if color not in shown])} {placed.name}"
    else:
        absent = rng.choice([name for name in world.things if name not in scene.names])
        expression = rng.choice((absent, f"{absent} on the {rng.choice(('left', 'right'))}"))
    return Reference(scene, expression, (), expression)


def _all_named(group: list[Placed]) -> str:
    """Name every object of a group: "dogs and the duck"."""
    counts = Counter(placed.name for placed in group)
    phrases = [f"the {name}" if n == 1 else f"the {language.plural(THINGS[name])}" for name, n in counts.items()]
    return language.joined(phrases).removeprefix("the ")
