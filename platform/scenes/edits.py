"""Edits that say plainly what to do: the eight families that change a given scene.

Each takes a world, a scene and a random generator, and returns None where its dice fell badly: no room, or no
expression that means one object only. What an instruction leaves open is the same in every scene (how far a move goes,
how much bigger is bigger), so that its one target can be learned.
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
"""How far a moved object goes, in fractions of the side."""
BIGGER, SMALLER = 1.5, 0.6
"""Factors of the height, which then goes to the next one below and from there to the nearest on the grid."""
SMALLEST = 6
"""In height steps: below, an object cannot be told at 64 px."""

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
    """A scene, the same scene edited, and the instruction that leads from one to the other."""

    family: str
    """How one is told what to do; `operation` is what is done."""
    operation: Operation
    source: Scene
    target: Scene
    instruction: str
    plain: str
    """The same request in words that name the object; the instruction itself where that does."""
    edited: tuple[int, ...] = ()
    """Ids of the objects the instruction is about, in either scene; empty if it is about the whole picture."""

    @property
    def pairs(self) -> set[Pair]:
        """The operation with each thing that it is done to, in either scene."""
        objects = (*self.source.objects, *self.target.objects)
        return {(self.operation, placed.name) for placed in objects if placed.id in self.edited}


def add(world: World, scene: Scene, rng: random.Random) -> Edit | None:
    name = rng.choice([name for name in world.things if name not in scene.names])
    where, plainly, span = _somewhere(scene, name, rng)
    placed = layout.place(world, scene, rng, name, color=layout.sample_color(world, rng, name), x=span)
    if placed is None:
        return None
    verb = rng.choice(("Add", "Put", "Insert", "Place"))
    noun = language.a(language.singular(placed.thing, placed.color))
    texts = f"{verb} {noun} {where}.", f"{verb} {noun} {plainly}."
    return _edit("add", scene, scene.plus(placed), texts, placed)


def remove(world: World, scene: Scene, rng: random.Random) -> Edit | None:
    placed = rng.choice(scene.objects)
    who = language.refer(rng, scene, placed)
    if who is None or len(scene.objects) < 2:
        return None
    text = rng.choice(("Remove {}.", "Get rid of {}.", "Take {} out of the picture.", "Delete {}.", "Erase {}."))
    return _edit("remove", scene, scene.without(placed.id), told(text, who, placed), placed)


def replace(world: World, scene: Scene, rng: random.Random) -> Edit | None:
    placed = rng.choice(scene.objects)
    who = language.refer(rng, scene, placed)
    new = exchange(world, scene, placed, rng)
    if who is None or new is None:
        return None
    text = rng.choice(("Replace {} with {}.", "Change {} to {}.", "Swap {} for {}.", "Turn {} into {}."))
    return _edit("replace", scene, scene.with_changed(new), told(text, who, placed, one(new)), placed)


def recolor(world: World, scene: Scene, rng: random.Random) -> Edit | None:
    paintable = [placed for placed in scene.objects if placed.paint]
    if not paintable:
        return None
    placed = rng.choice(paintable)
    who = language.refer(rng, scene, placed)
    color = rng.choice([color for color in world.colors if color != placed.looks])
    if who is None:
        return None
    text = rng.choice(("Make {} {}.", "Turn {} {}.", "Change the color of {} to {}.", "Paint {} {}."))
    target = scene.with_changed(dataclasses.replace(placed, color=color))
    return _edit("recolor", scene, target, told(text, who, placed, color), placed)


def move(world: World, scene: Scene, rng: random.Random) -> Edit | None:
    placed = rng.choice(scene.objects)
    who = language.refer(rng, scene, placed)
    side, step = rng.choice((("left", -MOVE), ("right", MOVE)))
    moved = layout.snapped(world, dataclasses.replace(placed, x=placed.x + step))
    if who is None or not scene.has_room_for(moved):
        return None
    text = rng.choice(("Move {} to the {}.", "Shift {} to the {}.", "Push {} to the {}."))
    return _edit("move", scene, scene.with_changed(moved), told(text, who, placed, side), placed)


def resize(world: World, scene: Scene, rng: random.Random) -> Edit | None:
    placed = rng.choice(scene.objects)
    who = language.refer(rng, scene, placed)
    word, scale = rng.choice((("bigger", BIGGER), ("smaller", SMALLER)))
    resized = layout.snapped(world, dataclasses.replace(placed, height=int(placed.height * scale)))
    if who is None or "bigg" in who or "small" in who or resized.height < SMALLEST or not scene.has_room_for(resized):
        return None
    text = rng.choice(("Make {} {}.", "Draw {} {}.", "I want {} to be {}."))
    return _edit("resize", scene, scene.with_changed(resized), told(text, who, placed, word), placed)


def background(world: World, scene: Scene, rng: random.Random) -> Edit | None:
    new = rng.choice([name for name in world.backgrounds if name != scene.background])
    texts = ("Change the background to {}.", "Put {} in the background.", "What if the background were {}?")
    target = dataclasses.replace(scene, background=new, background_seed=rng.randrange(world.windows))
    text = rng.choice(texts).format(new)
    return _edit("background", scene, target, (text, text))


def style(world: World, scene: Scene, rng: random.Random) -> Edit | None:
    if scene.effect:
        return None
    name = rng.choice(list(STYLES))
    text = rng.choice(("Turn it into {}.", "Make it look like {}.", "Show this as {}.")).format(name)
    return _edit("style", scene, dataclasses.replace(scene, effect=STYLES[name]), (text, text))


PlainFamily = Callable[[World, Scene, random.Random], Edit | None]
PLAIN: dict[str, PlainFamily] = {
    "add": add,
    "remove": remove,
    "replace": replace,
    "recolor": recolor,
    "move": move,
    "resize": resize,
    "background": background,
    "style": style,
}


def exchange(world: World, scene: Scene, placed: Placed, rng: random.Random) -> Placed | None:
    """Another thing, in its own colours, where `placed` is; shrunk until it fits, or None."""
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


def one(placed: Placed) -> str:
    """ "a red car", "a pair of scissors"."""
    return language.a(language.singular(placed.thing, placed.color))


def told(text: str, who: str, placed: Placed, *rest: str) -> tuple[str, str]:
    """An instruction and its plain form, of a text with a place for the object and for what else is said."""
    return text.format(who, *rest), text.format(language.named(who, placed.thing), *rest)


def _somewhere(scene: Scene, name: str, rng: random.Random) -> tuple[str, str, layout.Span]:
    """Words for a place, plain words for it, and the span of x that they mean: beside an object if there is room."""
    if THINGS[name].flies:
        return "at the top", "at the top", (0.05, 0.95)
    neighbour = rng.choice(scene.objects) if scene.objects and rng.random() < 0.6 else None
    who = language.refer(rng, scene, neighbour) if neighbour else None
    side = rng.choice(("left", "right"))
    if neighbour and who:
        left, right = neighbour.x - 0.12, neighbour.x + 0.12
        span = (0.05, left) if side == "left" else (right, 0.95)
        if span[1] - span[0] > 0.15:
            return *told(f"to the {side} of {{}}", who, neighbour), span
    return f"on the {side}", f"on the {side}", ((0.1, 0.4) if side == "left" else (0.6, 0.9))


def _edit(operation: Operation, source: Scene, target: Scene, texts: tuple[str, str], *edited: Placed) -> Edit:
    """The edit of the family named like its operation; `texts` are the instruction and its plain form."""
    return Edit(
        family=operation,
        operation=operation,
        source=source,
        target=target,
        instruction=texts[0],
        plain=texts[1],
        edited=tuple(placed.id for placed in edited),
    )
