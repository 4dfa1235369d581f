"""Questions and exact answers about a scene."""

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
    """Ask all questions that a scene has an answer to, in random order.

    Reflections are part of the description, but are neither counted nor part of other questions.
    """
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
    unique = [placed for placed in scene.objects if sum(other.name == placed.name for other in scene.objects) == 1]
    return [
        (f"What color is the {placed.name}?", f"The {placed.name} is {placed.looks}.")
        for placed in unique
        if placed.looks
    ]


def _count(scene: Scene, rng: random.Random) -> Turn:
    thing = rng.choice(scene.objects).thing
    count = sum(placed.name == thing.name for placed in scene.objects)
    question = f"How many {language.plural(thing)} are there in the image?"
    if count == 1:
        return question, f"There is one {language.singular(thing)}."
    return question, f"There are {language.NUMBERS[count]} {language.plural(thing)}."


def _presence(world: World, scene: Scene, rng: random.Random) -> Turn:
    present = rng.random() < 0.5
    name = rng.choice([name for name in world.things if (name in scene.names) == present] or sorted(scene.names))
    thing = language.singular(THINGS[name])
    question = f"Is there {language.a(thing)} in the image?"
    if name in scene.names:
        return question, "Yes, there is."
    return question, f"No, there is no {thing} in the image."


def _sides(scene: Scene, rng: random.Random) -> list[Turn]:
    first, second = rng.sample(scene.objects, 2)
    if first.name == second.name or abs(first.x - second.x) <= language.CLEARLY_APART:
        return []
    noun, other = language.singular(first.thing), language.singular(second.thing)
    side = "left" if first.x < second.x else "right"
    question = f"Is the {noun} to the left or to the right of the {other}?"
    return [(question, f"The {noun} is to the {side} of the {other}.")]


def _uses(scene: Scene, rng: random.Random) -> list[Turn]:
    """Ask about the use of each kind of object that has one, also where captions and instructions do not mention it."""
    turns = []
    for thing in dict.fromkeys(placed.thing for placed in scene.objects if placed.thing.use):
        question, answer = (text.format(thing=language.singular(thing), use=thing.use) for text in rng.choice(_USES))
        turns.append((question, answer))
    return turns


def _kinds(scene: Scene, rng: random.Random) -> list[Turn]:
    """Ask for the category of each kind of object or, where it has one object only, for the object of the category."""
    turns = []
    for thing in dict.fromkeys(placed.thing for placed in scene.objects):
        noun, kind = language.singular(thing), language.kind(thing)
        answer = f"The {noun} is {language.a(kind)}."
        unique = sum(placed.thing.category == thing.category for placed in scene.objects) == 1
        if unique and rng.random() < 0.5:
            turns.append((f"Which object in the image is {language.a(kind)}?", answer))
        else:
            turns.append((f"What kind of thing is the {noun}?", answer))
    return turns
