"""The names that COCO gives its pictures, and the numbers of our classes in its scheme."""

import re

from fireedit.platform.scenes.backgrounds import BACKGROUNDS
from fireedit.platform.scenes.objects import THINGS

FIRST_STUFF = 92
"""COCO numbers things 1 to 91 and stuff from 92 on."""

assert len(THINGS) < FIRST_STUFF, f"{len(THINGS)} things; COCO's numbers have room for {FIRST_STUFF - 1}"
THING_IDS = {name: number for number, name in enumerate(THINGS, start=1)}
STUFF_IDS = {name: number for number, name in enumerate(BACKGROUNDS, start=FIRST_STUFF)}


def picture_name(index: int) -> str:
    """The name, without suffix, of the picture number `index`: twelve digits."""
    return f"{index:012d}"


def class_names() -> dict[int, str]:
    """Class names by id; a background without its article."""
    stuff = {number: re.sub("^(a|an|the) ", "", name) for name, number in STUFF_IDS.items()}
    return {number: name for name, number in THING_IDS.items()} | stuff
