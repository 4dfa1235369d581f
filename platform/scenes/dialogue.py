"""Questions about a scene whose answers are known exactly."""

import random

from fireedit.platform.scenes import language
from fireedit.platform.scenes.objects import THINGS
from fireedit.platform.scenes.scene import Scene
from fireedit.platform.scenes.world import World

Turn = tuple[str, str]
"""A question and its answer."""

_USES = (
    ("Which object in the image can be used to {use}?", "The {thing} can be used to {use}."),
    ("What in the image can be used to {use}?", "The {thing} can be used to {use}."),
    ("What can the {thing} be used for?", "The {thing} can be used to {use}."),
)


def dialogue(world: World, scene: Scene, seed: int) -> list[Turn]:
    """Everything we can ask about a scene, in random order; what a mirror shows is described and not counted."""
    rng = random.Random(seed)
    description = language.caption(scene, rng.randrange(4))
    scene = scene.without(*(placed.id for placed in scene.objects if placed.reflection))
    turns = [
        *_colors(scene),
        _count(scene, rng),
        _presence(world, scene, rng),
        *_sides(scene, rng),
        *_uses(scene, rng),
        *_kinds(scene, rng),
        ("What is in the background?", f"The background shows {scene.background}."),
        ("Describe the image.", description),
    ]
    rng.shuffle(turns)
    return turns


def _colors(scene: Scene) -> list[Turn]:
    alone = [placed for placed in scene.objects if sum(other.name == placed.name for other in scene.objects) == 1]
    return [
        (f"What color is the {placed.name}?", f"The {placed.name} is {placed.looks}.")
        for placed in alone
        if placed.looks
    ]


def _count(scene: Scene, rng: random.Random) -> Turn:
    thing = rng.choice(scene.objects).thing
    count = sum(placed.name == thing.name for placed in scene.objects)
    question = f"How many {language.plural(thing)} are there in the image?"
    if count == 1:
        return question, f"There is one {language.singular(thing)}."
    return question, f"There are {language.number(count)} {language.plural(thing)}."


def _presence(world: World, scene: Scene, rng: random.Random) -> Turn:
    there = rng.random() < 0.5
    name = rng.choice([name for name in world.things if (name in scene.names) == there] or sorted(scene.names))
    thing = language.singular(THINGS[name])
    question = f"Is there {language.a(thing)} in the image?"
    if name in scene.names:
        return question, "Yes, there is."
    return question, f"No, there is no {thing} in the image."


def _sides(scene: Scene, rng: random.Random) -> list[Turn]:
    one, other = rng.sample(scene.objects, 2)
    if one.name == other.name or abs(one.x - other.x) <= language.CLEARLY_APART:
        return []
    who, whom = language.singular(one.thing), language.singular(other.thing)
    side = "left" if one.x < other.x else "right"
    return [(f"Is the {who} to the left or to the right of the {whom}?", f"The {who} is to the {side} of the {whom}.")]


def _uses(scene: Scene, rng: random.Random) -> list[Turn]:
    """One question for each kind of useful object, also those whose uses are said nowhere else."""
    turns = []
    for thing in dict.fromkeys(placed.thing for placed in scene.objects if placed.thing.use):
        question, answer = (text.format(thing=language.singular(thing), use=thing.use) for text in rng.choice(_USES))
        turns.append((question, answer))
    return turns


def _kinds(scene: Scene, rng: random.Random) -> list[Turn]:
    """The category of each kind of object: asked for by its name, or, where one object is of it, the reverse."""
    turns = []
    for thing in dict.fromkeys(placed.thing for placed in scene.objects):
        noun, kind = language.singular(thing), language.kind(thing)
        answer = f"The {noun} is {language.a(kind)}."
        alone = sum(placed.thing.category == thing.category for placed in scene.objects) == 1
        if alone and rng.random() < 0.5:
            turns.append((f"Which object in the image is {language.a(kind)}?", answer))
        else:
            turns.append((f"What kind of thing is the {noun}?", answer))
    return turns
