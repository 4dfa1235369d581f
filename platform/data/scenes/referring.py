"""Expressions that mean no, one or several objects of a scene, as in gRefCOCO."""

import dataclasses
import random

from fireedit.platform.data.scenes import language, layout
from fireedit.platform.data.scenes.scene import Scene
from fireedit.platform.data.scenes.world import World

GROUP_CATEGORIES = ("animal", "vehicle", "plant")


@dataclasses.dataclass(frozen=True)
class Reference:
    """A scene, an expression, and which objects it means."""

    scene: Scene
    expression: str
    """Without a leading article for one object: "red car on the left", "all the animals"."""
    ids: tuple[int, ...]
    """Empty if nothing in the scene fits the expression."""


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


def _scene(world: World, rng: random.Random) -> Scene:
    if rng.random() < 0.4 and (twins := layout.sample_twins(world, rng, rng.choice(("side", "size", "color")))):
        return twins
    return layout.sample_scene(world, rng, count=rng.randint(3, 4))


def _to_one(world: World, scene: Scene, rng: random.Random) -> Reference | None:
    placed = rng.choice(scene.objects)
    who = language.refer(rng, scene, placed)
    return Reference(scene, who.removeprefix("the "), (placed.id,)) if who else None


def _to_several(world: World, scene: Scene, rng: random.Random) -> Reference | None:
    category = rng.choice(scene.objects).thing.category
    group = tuple(placed.id for placed in scene.objects if placed.thing.category == category)
    if len(group) > 1 and category in GROUP_CATEGORIES:
        return Reference(scene, f"all the {category}s", group)
    first, second = rng.sample(scene.objects, 2)
    who, whom = language.refer(rng, scene, first), language.refer(rng, scene, second)
    if who is None or whom is None:
        return None
    return Reference(scene, f"{who.removeprefix('the ')} and {whom}", (first.id, second.id))


def _to_none(world: World, scene: Scene, rng: random.Random) -> Reference | None:
    """A thing that is not there, or one that is there in other colours."""
    placed = rng.choice(scene.objects)
    if placed.paint and rng.random() < 0.5:
        shown = {other.looks for other in scene.objects if other.name == placed.name}
        color = rng.choice([color for color in world.colors if color not in shown])
        return Reference(scene, f"{color} {placed.name}", ())
    absent = rng.choice([name for name in world.things if name not in scene.names])
    return Reference(scene, rng.choice((absent, f"{absent} on the {rng.choice(('left', 'right'))}")), ())
