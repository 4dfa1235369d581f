"""Words for scenes: noun phrases, expressions that mean exactly one object, captions."""

import random
from collections import Counter

from fireedit.platform.scenes.objects import THINGS, Thing
from fireedit.platform.scenes.scene import Placed, Scene

NAMED_CATEGORIES = ("animal", "vehicle", "plant", "building")
"""Categories whose name people use for a thing that they see."""
_KINDS = {"clothing": "piece of clothing", "furniture": "piece of furniture"}
"""Nouns for categories that cannot be counted."""
CLEARLY_APART = 0.08
"""In fractions of the side: from here on one object is left of another."""
CLEARLY_BIGGER = 3
"""In height steps."""

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
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
    """The phrase with its indefinite article."""
    return f"an {phrase}" if phrase[0] in "aeio" or phrase.startswith("umb") else f"a {phrase}"


def singular(thing: Thing, color: str = "") -> str:
    """One of a thing, to be counted: "red car", "pair of scissors"."""
    name = f"{thing.measure} of {thing.name}" if thing.measure else thing.name
    return f"{color} {name}" if color else name


def plural(thing: Thing, color: str = "") -> str:
    name = thing.plural or f"{thing.name}s"
    return f"{color} {name}" if color else name


def number(count: int) -> str:
    return _NUMBERS[count]


def joined(phrases: list[str]) -> str:
    """ "a, b and c"."""
    return " and ".join([", ".join(phrases[:-1]), phrases[-1]]) if len(phrases) > 1 else phrases[0]


def sentence(text: str, end: str = ".") -> str:
    return f"{text[0].upper()}{text[1:]}{end}"


def caption(scene: Scene, form: int = 0) -> str:
    """What the picture shows, in one sentence; `form` picks its pattern."""
    phrases = _counted(scene, reflections=False)
    if scene.mirror is not None:
        shown = _counted(scene, reflections=True)
        phrases.append(f"a mirror with {joined(shown)} in it" if shown else "an empty mirror")
    objects = joined(phrases) if phrases else "nothing"
    text = _CAPTIONS[form % len(_CAPTIONS)].format(objects=objects, background=scene.background)
    return sentence(text + _EFFECTS[scene.effect])


def _counted(scene: Scene, reflections: bool) -> list[str]:
    """ "a dog", "two red cars": what stands there, or what the mirror shows."""
    seen = [placed for placed in scene.objects if placed.reflection == reflections]
    return [
        a(singular(THINGS[name], color)) if count == 1 else f"{number(count)} {plural(THINGS[name], color)}"
        for (name, color), count in Counter((placed.name, placed.color) for placed in seen).items()
    ]


def refer(rng: random.Random, scene: Scene, placed: Placed) -> str | None:
    """An expression that means this object and no other of the scene, if there is one."""
    found = expressions(scene, placed)
    return rng.choice(found) if found else None


def expressions(scene: Scene, placed: Placed) -> list[str]:
    """All our expressions, each beginning with "the", that mean this object and no other of the scene.

    What a mirror shows is always said to be in it. A real object is said to be outside it only if the mirror shows
    something of its category; other reflections make nothing ambiguous. A category that only dialogue teaches is not
    named; `referring.taught_expressions` do.
    """
    found = _among([other for other in scene.objects if other.reflection == placed.reflection], placed)
    if placed.reflection:
        return [phrase for text in found for phrase in (f"{text} in the mirror", f"the reflection of {text}")]
    if any(other.reflection and other.thing.category == placed.thing.category for other in scene.objects):
        return [f"{text} outside the mirror" for text in found]
    return found


def named(expression: str, thing: Thing) -> str:
    """An expression for a thing with its name where it has its category: "the dog in the mirror"."""
    return expression.replace(f"the {thing.category}", f"the {thing.name}")


def kind(thing: Thing) -> str:
    """A noun for its category: "animal", "piece of furniture"."""
    return _KINDS.get(thing.category, thing.category)


def _among(objects: list[Placed], placed: Placed) -> list[str]:
    """Expressions that mean this object and no other of these."""
    same = [other for other in objects if other.name == placed.name]
    found = [f"the {placed.name}"] if len(same) == 1 else []
    if placed.color and sum(other.looks == placed.looks for other in same) == 1:
        found.append(f"the {placed.noun}")
    if len(same) > 1:
        found += _by_side(same, placed) + _by_size(same, placed)
    category = placed.thing.category
    if names_category(placed.thing) and sum(other.thing.category == category for other in objects) == 1:
        found.append(f"the {category}")
    return found


def names_category(thing: Thing) -> bool:
    """Tell if a request or an expression may call a thing by its category."""
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
