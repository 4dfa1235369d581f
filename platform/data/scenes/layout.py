"""Drawing scenes at random: which objects, where, how big."""

import dataclasses
import random
from typing import Literal

from fireedit.platform.data.scenes import sprites
from fireedit.platform.data.scenes.objects import THINGS
from fireedit.platform.data.scenes.scene import HEIGHT_STEPS, Mirror, Placed, Scene
from fireedit.platform.data.scenes.world import World

GROUND = (0.62, 0.97)
"""Where the lower edge of a standing object may be, in fractions of the side."""
SKY = (0.26, 0.5)
"""Where the lower edge of a flying object may be."""
WIDEST = 0.55
PAINTED_SHARE = 0.6
REFLECTED_HEIGHT = 0.8
"""How high a reflection is, by its thing's height."""

Span = tuple[float, float]


def sample_scene(world: World, rng: random.Random, count: int | None = None, must: tuple[str, ...] = ()) -> Scene:
    """A scene of `count` different objects (2 to 4 unless given) that has those named in `must`, which come first."""
    while True:
        wanted = max(len(must), count or rng.randint(2, 4))
        others = [name for name in world.things if name not in must]
        scene = empty_scene(world, rng)
        for name in (*must, *rng.sample(others, wanted - len(must))):
            placed = place(world, scene, rng, name, color=sample_color(world, rng, name))
            if placed is None:
                break
            scene = scene.plus(placed)
        else:
            return scene


def sample_twins(world: World, rng: random.Random, differ: Literal["side", "size", "color"]) -> Scene | None:
    """A scene with two objects of one kind, one in the left half and one in the right, that differ in one way."""
    standing = [name for name in world.things if not THINGS[name].flies]
    name = rng.choice([name for name in standing if differ != "color" or sprites.paint(name, world.artwork)])
    heights = (13, 8) if differ == "size" else (10, 10)
    colors = rng.sample(world.colors, 2) if differ == "color" else [sample_color(world, rng, name)] * 2
    halves = [(0.1, 0.42), (0.58, 0.9)]
    rng.shuffle(halves)
    scene = empty_scene(world, rng)
    for height, color, half in zip(heights, colors, halves, strict=True):
        placed = place(world, scene, rng, name, color=color, height=height, x=half, y=(0.72, 0.94))
        if placed is None or placed.height != height:
            return None
        scene = scene.plus(placed)
    return scene


def sample_mirror(world: World, rng: random.Random) -> Scene | None:
    """A scene with a mirror in one half: first a standing thing in the other half, then its reflection, then another.

    The reflection is the thing turned round and smaller, for the mirror stands behind it.
    """
    name, other = rng.sample([name for name in world.things if not THINGS[name].flies], 2)
    middle, half = rng.choice(((0.26, (0.5, 0.9)), (0.74, (0.1, 0.5))))
    mirror = Mirror(middle + rng.uniform(-0.03, 0.03), rng.uniform(0.72, 0.84))
    scene = dataclasses.replace(empty_scene(world, rng), mirror=mirror)
    placed = place(world, scene, rng, name, color=sample_color(world, rng, name), x=half)
    if placed is None:
        return None
    left, _, right, bottom = mirror.glass
    widest = int((right - left) * HEIGHT_STEPS / sprites.aspect(name, world.artwork))
    height = min(round(placed.height * REFLECTED_HEIGHT), widest)
    reflection = dataclasses.replace(
        placed, id=2, x=mirror.x, y=bottom - 0.03, height=height, mirrored=not placed.mirrored, reflection=True
    )
    scene = scene.plus(placed).plus(reflection)
    beside = place(world, scene, rng, other, color=sample_color(world, rng, other))
    return scene.plus(beside) if beside else None


def empty_scene(world: World, rng: random.Random) -> Scene:
    """A random background with nothing before it."""
    return Scene(rng.choice(world.backgrounds), rng.randrange(1 << 30))


def sample_color(world: World, rng: random.Random, name: str) -> str:
    """A colour for a thing that can be painted, or empty: it then keeps the artwork's own."""
    return rng.choice(world.colors) if sprites.paint(name, world.artwork) and rng.random() < PAINTED_SHARE else ""


def place(
    world: World,
    scene: Scene,
    rng: random.Random,
    name: str,
    *,
    color: str = "",
    height: int | None = None,
    x: Span = (0.05, 0.95),
    y: Span | None = None,
) -> Placed | None:
    """Find room for a thing, or give up.

    Args:
        height: in steps; 7 to 13 unless given, and less where the thing would be too wide.
        x, y: where its middle and its lower edge may be, in fractions of the side.
    """
    y = y or (SKY if THINGS[name].flies else GROUND)
    widest = int(WIDEST * HEIGHT_STEPS / sprites.aspect(name, world.artwork))
    for _ in range(40):
        placed = Placed(
            id=scene.next_id,
            name=name,
            x=rng.uniform(*x),
            y=rng.uniform(*y),
            height=min(height or rng.randint(7, 13), widest),
            color=color,
            mirrored=rng.random() < 0.5,
            artwork=world.artwork,
        )
        if scene.has_room_for(placed):
            return placed
    return None
