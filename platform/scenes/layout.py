"""Random scenes: choice of objects, positions and sizes."""

import dataclasses
import random
from typing import Literal

from fireedit.platform.scenes import sprites
from fireedit.platform.scenes.objects import THINGS
from fireedit.platform.scenes.scene import HEIGHT_STEPS, MIRROR_SIZE, Mirror, Placed, Scene
from fireedit.platform.scenes.world import World

GROUND = (0.62, 0.97)
"""Range of the lower edge of a standing object, in fractions of the side."""
SKY = (0.26, 0.5)
"""Range of the lower edge of a flying object, in fractions of the side."""
WIDEST = 0.55
"""Greatest width of an object, in fractions of the side."""
PAINTED_SHARE = 0.6
"""Share of the objects in another color than their artwork's, of those that can be repainted."""
REFLECTED_HEIGHT = 0.8
"""Height of a reflection as a fraction of its object's height."""
TRIES = 12
"""Positions tried for one object."""
BESIDE_HEIGHT = 8
"""Height of the other object beside a mirror, where there is little room, in height steps."""
HEIGHTS = (7, 12)
"""Least and greatest height in height steps, before snapping to the world's grid."""
TWIN_HEIGHTS = {"side": (10, 10), "size": (12, 8), "color": (10, 10)}
"""Heights of twins, in height steps, by what they differ in."""
ROW = ((0.1, 0.28), (0.41, 0.59), (0.72, 0.9))
"""Spans of the centers of three objects in a row, in fractions of the side."""
ROW_HEIGHTS = (8, 6)
"""Heights of narrow objects in a row, and of wider ones, in height steps."""
_NARROW, _WIDEST_IN_A_ROW = 1.2, 1.6
"""Aspect ratios (width over height) up to which an object is narrow, and fits in a row at all."""

Span = tuple[float, float]
"""Least and greatest value, in fractions of the side."""


def sample_scene(world: World, rng: random.Random, count: int | None = None, required: tuple[str, ...] = ()) -> Scene:
    """Draw a scene of `count` different objects (2 to 4 by default), the `required` ones first."""
    while True:
        wanted = max(len(required), count or rng.randint(2, 4))
        others = [name for name in world.things if name not in required]
        scene = empty_scene(world, rng)
        for name in (*required, *rng.sample(others, wanted - len(required))):
            placed = place(world, scene, rng, name, color=sample_color(world, rng, name))
            if placed is None:
                break
            scene = scene.plus(placed)
        else:
            return scene


def sample_twins(world: World, rng: random.Random, differ: Literal["side", "size", "color"]) -> Scene | None:
    """Draw a scene with two objects of one kind, one in each half, that differ in one way; None if there is no room."""
    standing = [name for name in world.things if not THINGS[name].flies]
    name = rng.choice([name for name in standing if differ != "color" or sprites.paint(name, world.artwork)])
    colors = rng.sample(world.colors, 2) if differ == "color" else [sample_color(world, rng, name)] * 2
    halves = [(0.1, 0.42), (0.58, 0.9)]
    rng.shuffle(halves)
    scene = empty_scene(world, rng)
    for height, color, half in zip(TWIN_HEIGHTS[differ], colors, halves, strict=True):
        placed = place(world, scene, rng, name, color=color, height=height, x=half, y=(0.72, 0.94))
        if placed is None or placed.height != height:
            return None
        scene = scene.plus(placed)
    return scene


def sample_row(world: World, rng: random.Random) -> Scene | None:
    """Draw a scene with three objects of one kind, size and color in a row, listed from left to right."""
    aspects = {name: sprites.aspect(name, world.artwork) for name in world.things if not THINGS[name].flies}
    name = rng.choice([name for name, aspect in aspects.items() if aspect <= _WIDEST_IN_A_ROW])
    color = sample_color(world, rng, name)
    height = ROW_HEIGHTS[aspects[name] > _NARROW]
    foot = rng.uniform(*GROUND)
    scene = empty_scene(world, rng)
    for span in ROW:
        placed = place(world, scene, rng, name, color=color, height=height, x=span, y=(foot, foot))
        if placed is None:
            return None
        scene = scene.plus(placed)
    return scene


def sample_mirror(world: World, rng: random.Random) -> Scene | None:
    """Draw a scene with a mirror in one half; its objects are one in the other half, its reflection, and a third.

    The reflection is a flipped and smaller copy of the first object, since the mirror is behind it.
    """
    name, other = rng.sample([name for name in world.things if not THINGS[name].flies], 2)
    middle, half = rng.choice(((0.26, (0.48, 0.95)), (0.74, (0.05, 0.52))))
    width, height = MIRROR_SIZE
    middle, foot = middle + rng.uniform(-0.03, 0.03), rng.uniform(0.72, 0.84)
    mirror = Mirror(*_on_grid(world.grid, width / height, middle, foot, round(height * HEIGHT_STEPS))[:2])
    scene = dataclasses.replace(empty_scene(world, rng), mirror=mirror)
    placed = place(world, scene, rng, name, color=sample_color(world, rng, name), x=half)
    if placed is None:
        return None
    left, _, right, bottom = mirror.glass
    widest = int((right - left) * HEIGHT_STEPS / sprites.aspect(name, world.artwork))
    height = min(round(placed.height * REFLECTED_HEIGHT), widest // height_step(world) * height_step(world))
    reflection = snapped(
        world,
        dataclasses.replace(
            placed, id=2, x=mirror.x, y=bottom - 0.03, height=height, mirrored=not placed.mirrored, reflection=True
        ),
    )
    scene = scene.plus(placed)
    if reflection.height >= placed.height or not scene.has_room_for(reflection):
        return None
    scene = scene.plus(reflection)
    beside = place(world, scene, rng, other, color=sample_color(world, rng, other), height=BESIDE_HEIGHT, x=half)
    return scene.plus(beside) if beside else None


def empty_scene(world: World, rng: random.Random) -> Scene:
    """Draw a background without objects."""
    return Scene(rng.choice(world.backgrounds), rng.randrange(world.windows))


def sample_color(world: World, rng: random.Random, name: str) -> str:
    """Draw a color for a thing that can be repainted; empty keeps the artwork's own."""
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
    """Find a position for a thing; None if TRIES draws find no room.

    Args:
        height: in height steps; drawn from `HEIGHTS` by default, and less where the thing would be too wide.
        x, y: spans of its center and its lower edge, in fractions of the side, before snapping to the grid.
    """
    y = y or (SKY if THINGS[name].flies else GROUND)
    widest, number = int(WIDEST * HEIGHT_STEPS / sprites.aspect(name, world.artwork)), scene.next_id
    for _ in range(TRIES):
        middle, foot, steps = rng.uniform(*x), rng.uniform(*y), min(height or rng.randint(*HEIGHTS), widest)
        drawn = Placed(number, name, middle, foot, steps, color, rng.random() < 0.5, artwork=world.artwork)
        placed = snapped(world, drawn)
        if scene.has_room_for(placed):
            return placed
    return None


def snapped(world: World, placed: Placed) -> Placed:
    """Snap an object to the world's grid: left and lower edges to the nearest lines, the height to whole cells."""
    aspect = sprites.aspect(placed.name, placed.artwork)
    x, y, height = _on_grid(world.grid, aspect, placed.x, placed.y, placed.height)
    return dataclasses.replace(placed, x=x, y=y, height=height)


def height_step(world: World) -> int:
    """Return the distance of neighboring heights of a world, in height steps."""
    return HEIGHT_STEPS // world.grid if world.grid else 1


def _on_grid(grid: int | None, aspect: float, x: float, y: float, height: int) -> tuple[float, float, int]:
    """Snap center, lower edge and height of an object to a grid, if there is one."""
    if grid is None:
        return x, y, height
    step = HEIGHT_STEPS // grid
    height = step * max(1, int(height / step + 0.5))
    half = height / HEIGHT_STEPS * aspect / 2
    return round((x - half) * grid) / grid + half, round(y * grid) / grid, height
