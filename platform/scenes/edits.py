"""Edits with explicit instructions: the eight families that change a given scene.

Each takes a world, a scene and a random generator, and returns None if the draw has no valid edit: no room, or no
expression that means one object only. Quantities that an instruction leaves open are the same in every scene (distance
of a move, factor of a resize), so that the target is a function of source and instruction.
"""

import dataclasses
import random
from collections.abc import Callable
from typing import Literal

from fireedit.platform.scenes import language, layout
from fireedit.platform.scenes.objects import THINGS
from fireedit.platform.scenes.scene import EFFECTS, Placed, Scene
from fireedit.platform.scenes.world import Pair, World

MOVE = 5 / 16
"""Distance of a move, in fractions of the side."""
BIGGER, SMALLER = 1.5, 0.6
"""Factors of the height, which is then rounded down and snapped to the grid."""
SMALLEST = 6
"""Least height after an edit, in height steps: smaller objects cannot be recognized at 64 px."""

STYLES = {
    "a black and white photo": "black and white",
    "a sepia photo": "sepia",
    "a night scene": "night",
    "pixel art": "pixel art",
    "a blurry photo": "blur",
}
assert set(STYLES.values()) == set(EFFECTS)

Operation = Literal["add", "remove", "replace", "recolor", "move", "resize", "background", "style"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Edit:
    """A scene, the edited scene, and the instruction that leads from one to the other."""

    family: str
    """Kind of instruction; several kinds may ask for the same `operation`."""
    operation: Operation
    source: Scene
    target: Scene
    instruction: str
    plain: str
    """The same request with the object called by its name; equal to the instruction where that does so."""
    edited: tuple[int, ...] = ()
    """Ids of the objects that the instruction is about, in either scene; empty if it is about the whole picture."""

    @property
    def pairs(self) -> set[Pair]:
        """Pairs of the operation and each edited thing, in either scene."""
        objects = (*self.source.objects, *self.target.objects)
        return {(self.operation, placed.name) for placed in objects if placed.id in self.edited}

    @property
    def local_caption(self) -> str:
        """Name of the edited place after the edit: "red car", or the background of a removed object."""
        for placed in self.target.objects:
            if placed.id in self.edited:
                return placed.noun
        reflected = any(placed.reflection for placed in self.source.objects if placed.id in self.edited)
        return "mirror" if reflected else self.target.background


def add(world: World, scene: Scene, rng: random.Random) -> Edit | None:
    name = rng.choice([name for name in world.things if name not in scene.names])
    where, plain, span = _somewhere(scene, name, rng)
    placed = layout.place(world, scene, rng, name, color=layout.sample_color(world, rng, name), x=span)
    if placed is None:
        return None
    verb = rng.choice(("Add", "Put", "Insert", "Place"))
    noun = language.a(language.singular(placed.thing, placed.color))
    texts = f"{verb} {noun} {where}.", f"{verb} {noun} {plain}."
    return make("add", scene, scene.plus(placed), texts, placed)


def remove(world: World, scene: Scene, rng: random.Random) -> Edit | None:
    placed = rng.choice(scene.objects)
    expression = language.refer(rng, scene, placed)
    if expression is None or len(scene.objects) < 2:
        return None
    text = rng.choice(("Remove {}.", "Get rid of {}.", "Take {} out of the picture.", "Delete {}.", "Erase {}."))
    return make("remove", scene, scene.without(placed.id), fill(text, expression, placed), placed)


def replace(world: World, scene: Scene, rng: random.Random) -> Edit | None:
    placed = rng.choice(scene.objects)
    expression = language.refer(rng, scene, placed)
    new = exchange(world, scene, placed, rng)
    if expression is None or new is None:
        return None
    text = rng.choice(("Replace {} with {}.", "Change {} to {}.", "Swap {} for {}.", "Turn {} into {}."))
    return make("replace", scene, scene.with_changed(new), fill(text, expression, placed, noun_phrase(new)), placed)


def recolor(world: World, scene: Scene, rng: random.Random) -> Edit | None:
    paintable = [placed for placed in scene.objects if placed.paint]
    if not paintable:
        return None
    placed = rng.choice(paintable)
    expression = language.refer(rng, scene, placed)
    color = rng.choice([color for color in world.colors if color != placed.looks])
    if expression is None:
        return None
    text = rng.choice(("Make {} {}.", "Turn {} {}.", "Change the color of {} to {}.", "Paint {} {}."))
    target = scene.with_changed(dataclasses.replace(placed, color=color))
    return make("recolor", scene, target, fill(text, expression, placed, color), placed)


def move(world: World, scene: Scene, rng: random.Random) -> Edit | None:
    placed = rng.choice(scene.objects)
    expression = language.refer(rng, scene, placed)
    side, step = rng.choice((("left", -MOVE), ("right", MOVE)))
    moved = layout.snapped(world, dataclasses.replace(placed, x=placed.x + step))
    if expression is None or not scene.has_room_for(moved):
        return None
    text = rng.choice(("Move {} to the {}.", "Shift {} to the {}.", "Push {} to the {}."))
    return make("move", scene, scene.with_changed(moved), fill(text, expression, placed, side), placed)


def resize(world: World, scene: Scene, rng: random.Random) -> Edit | None:
    placed = rng.choice(scene.objects)
    expression = language.refer(rng, scene, placed)
    word, scale = rng.choice((("bigger", BIGGER), ("smaller", SMALLER)))
    resized = layout.snapped(world, dataclasses.replace(placed, height=int(placed.height * scale)))
    if expression is None or "bigg" in expression or "small" in expression:
        return None
    if resized.height < SMALLEST or not scene.has_room_for(resized):
        return None
    text = rng.choice(("Make {} {}.", "Draw {} {}.", "I want {} to be {}."))
    return make("resize", scene, scene.with_changed(resized), fill(text, expression, placed, word), placed)


def background(world: World, scene: Scene, rng: random.Random) -> Edit | None:
    new = rng.choice([name for name in world.backgrounds if name != scene.background])
    texts = ("Change the background to {}.", "Put {} in the background.", "What if the background were {}?")
    target = dataclasses.replace(scene, background=new, background_seed=rng.randrange(world.windows))
    text = rng.choice(texts).format(new)
    return make("background", scene, target, (text, text))


def style(world: World, scene: Scene, rng: random.Random) -> Edit | None:
    if scene.effect:
        return None
    name = rng.choice(list(STYLES))
    text = rng.choice(("Turn it into {}.", "Make it look like {}.", "Show this as {}.")).format(name)
    return make("style", scene, dataclasses.replace(scene, effect=STYLES[name]), (text, text))


PlainFamily = Callable[[World, Scene, random.Random], Edit | None]
PLAIN: dict[str, PlainFamily] = {
    draw.__name__: draw for draw in (add, remove, replace, recolor, move, resize, background, style)
}
"""Families by name, each named after its operation."""


def exchange(world: World, scene: Scene, placed: Placed, rng: random.Random) -> Placed | None:
    """Put another thing, in its artwork's own colors, where `placed` is; shrink it until it fits, or return None."""
    flies = placed.thing.flies
    others = [name for name in world.things if THINGS[name].flies == flies and name not in scene.names]
    if not others:
        return None
    name = rng.choice(others)
    for height in range(placed.height, SMALLEST - 1, -layout.height_step(world)):
        new = layout.snapped(world, dataclasses.replace(placed, name=name, color="", height=height))
        if scene.has_room_for(new):
            return new
    return None


def noun_phrase(placed: Placed) -> str:
    """Name an object with its article and color: "a red car", "a pair of scissors"."""
    return language.a(language.singular(placed.thing, placed.color))


def fill(text: str, expression: str, placed: Placed, *rest: str) -> tuple[str, str]:
    """Fill a template with the expression for an object and `rest`; return the instruction and its plain form."""
    return text.format(expression, *rest), text.format(language.named(expression, placed.thing), *rest)


def _somewhere(scene: Scene, name: str, rng: random.Random) -> tuple[str, str, layout.Span]:
    """Choose a place: words for it, plain words for it, and its span of x; beside an object if there is room."""
    if THINGS[name].flies:
        return "at the top", "at the top", (0.05, 0.95)
    neighbor = rng.choice(scene.objects) if scene.objects and rng.random() < 0.6 else None
    expression = language.refer(rng, scene, neighbor) if neighbor else None
    side = rng.choice(("left", "right"))
    if neighbor and expression:
        left, right = neighbor.x - 0.12, neighbor.x + 0.12
        span = (0.05, left) if side == "left" else (right, 0.95)
        if span[1] - span[0] > 0.15:
            return *fill(f"to the {side} of {{}}", expression, neighbor), span
    return f"on the {side}", f"on the {side}", ((0.1, 0.4) if side == "left" else (0.6, 0.9))


def make(
    operation: Operation, source: Scene, target: Scene, texts: tuple[str, str], *edited: Placed, family: str = ""
) -> Edit:
    """Make an edit, by default of its operation's family; `texts` are the instruction and its plain form."""
    return Edit(
        family=family or operation,
        operation=operation,
        source=source,
        target=target,
        instruction=texts[0],
        plain=texts[1],
        edited=tuple(placed.id for placed in edited),
    )
