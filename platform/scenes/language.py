"""Texts about scenes: noun phrases, expressions that mean exactly one object, captions."""

import random
from collections import Counter

from fireedit.platform.scenes.objects import THINGS, Thing
from fireedit.platform.scenes.scene import Placed, Scene

NAMED_CATEGORIES = ("animal", "vehicle", "plant", "building")
"""Categories that instructions and expressions use as nouns."""
_KINDS = {"clothing": "piece of clothing", "furniture": "piece of furniture"}
"""Countable nouns for categories whose names are not."""
CLEARLY_APART = 0.08
"""Least distance, in fractions of the side, at which one object is called left of another."""
CLEARLY_BIGGER = 3
"""Least difference of heights, in height steps, at which one object is called bigger."""

NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
_CAPTIONS = (
    "{objects} with {background} in the background",
    "{background} with {objects} in front",
    "a picture of {objects}, {background} behind",
    "{objects} in front of {background}",
)
_EFFECTS = {
    "": "",
    "black and white": ", in black and white",
    "sepia": ", in sepia",
    "night": ", at night",
    "pixel art": ", as pixel art",
    "blur": ", blurry",
}


def a(phrase: str) -> str:
    """Put the indefinite article before a phrase."""
    return f"an {phrase}" if phrase[0] in "aeio" or phrase.startswith("umb") else f"a {phrase}"


def singular(thing: Thing, color: str = "") -> str:
    """Name one of a thing: "red car", "pair of scissors"."""
    name = f"{thing.measure} of {thing.name}" if thing.measure else thing.name
    return f"{color} {name}" if color else name


def plural(thing: Thing, color: str = "") -> str:
    name = thing.plural or f"{thing.name}s"
    return f"{color} {name}" if color else name


def joined(phrases: list[str]) -> str:
    """Join phrases to "a, b and c"."""
    return " and ".join([", ".join(phrases[:-1]), phrases[-1]]) if len(phrases) > 1 else phrases[0]


def sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def caption(scene: Scene, form: int = 0) -> str:
    """Describe a scene in one sentence; `form` picks the pattern."""
    phrases = _counted(scene, reflections=False)
    if scene.mirror is not None:
        shown = _counted(scene, reflections=True)
        phrases.append(f"a mirror with {joined(shown)} in it" if shown else "an empty mirror")
    objects = joined(phrases) if phrases else "nothing"
    text = _CAPTIONS[form % len(_CAPTIONS)].format(objects=objects, background=scene.background)
    return sentence(text + _EFFECTS[scene.effect])


def _counted(scene: Scene, reflections: bool) -> list[str]:
    """Count objects, or reflections, by name and color: "a dog", "two red cars"."""
    counted = [placed for placed in scene.objects if placed.reflection == reflections]
    return [
        a(singular(THINGS[name], color)) if count == 1 else f"{NUMBERS[count]} {plural(THINGS[name], color)}"
        for (name, color), count in Counter((placed.name, placed.color) for placed in counted).items()
    ]


def refer(rng: random.Random, scene: Scene, placed: Placed) -> str | None:
    """Draw an expression that means this object and no other of the scene; None if there is none."""
    unambiguous = expressions(scene, placed)
    return rng.choice(unambiguous) if unambiguous else None


def expressions(scene: Scene, placed: Placed) -> list[str]:
    """List the expressions, each beginning with "the", that mean this object and no other of the scene.

    A reflection is always called "in the mirror". A real object is called "outside the mirror" only if a reflection
    has its category: other reflections make nothing ambiguous. A category that only dialogue teaches is not used here
    but in `referring.taught_expressions`.
    """
    texts = _among([other for other in scene.objects if other.reflection == placed.reflection], placed)
    if placed.reflection:
        return [phrase for text in texts for phrase in (f"{text} in the mirror", f"the reflection of {text}")]
    if any(other.reflection and other.thing.category == placed.thing.category for other in scene.objects):
        return [f"{text} outside the mirror" for text in texts]
    return texts


def named(expression: str, thing: Thing) -> str:
    """Replace the category in an expression by the thing's name: "the dog in the mirror"."""
    return expression.replace(f"the {thing.category}", f"the {thing.name}")


def kind(thing: Thing) -> str:
    """Return a countable noun for a thing's category: "animal", "piece of furniture"."""
    return _KINDS.get(thing.category, thing.category)


def _among(objects: list[Placed], placed: Placed) -> list[str]:
    """List the expressions that mean this object and no other of these."""
    same = [other for other in objects if other.name == placed.name]
    texts = [f"the {placed.name}"] if len(same) == 1 else []
    if placed.color and sum(other.looks == placed.looks for other in same) == 1:
        texts.append(f"the {placed.noun}")
    if len(same) > 1:
        texts += _by_side(same, placed) + _by_size(same, placed)
    category = placed.thing.category
    if names_category(placed.thing) and sum(other.thing.category == category for other in objects) == 1:
        texts.append(f"the {category}")
    return texts


def names_category(thing: Thing) -> bool:
    """Check if an instruction or an expression may call a thing by its category."""
    return thing.category in NAMED_CATEGORIES and thing.taught == "everywhere"


def _by_side(same: list[Placed], placed: Placed) -> list[str]:
    ordered = sorted(same, key=lambda other: other.x)
    pair = len(same) == 2
    if placed is ordered[0] and ordered[1].x - placed.x > CLEARLY_APART:
        return [f"the {placed.name} on the left" if pair else f"the leftmost {placed.name}"]
    if placed is ordered[-1] and placed.x - ordered[-2].x > CLEARLY_APART:
        return [f"the {placed.name} on the right" if pair else f"the rightmost {placed.name}"]
    return []


def _by_size(same: list[Placed], placed: Placed) -> list[str]:
    ordered = sorted(same, key=lambda other: other.height)
    pair = len(same) == 2
    if placed is ordered[0] and ordered[1].height - placed.height >= CLEARLY_BIGGER:
        return [f"the smaller {placed.name}" if pair else f"the smallest {placed.name}"]
    if placed is ordered[-1] and placed.height - ordered[-2].height >= CLEARLY_BIGGER:
        return [f"the bigger {placed.name}" if pair else f"the biggest {placed.name}"]
    return []
