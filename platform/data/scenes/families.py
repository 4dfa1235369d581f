"""All families of edits, and an edit by its seed."""

import random

from fireedit.platform.data.scenes import layout
from fireedit.platform.data.scenes.edits import PLAIN, Edit
from fireedit.platform.data.scenes.understanding import HARD
from fireedit.platform.data.scenes.world import World

FAMILIES = (*PLAIN, *HARD)


def make_edit(world: World, seed: int, family: str | None = None) -> Edit:
    """The edit of a seed: of the family asked for, or of one drawn at random."""
    rng = random.Random(seed)
    while True:
        chosen = family or rng.choice(FAMILIES)
        if chosen in PLAIN:
            edit = PLAIN[chosen](world, layout.sample_scene(world, rng), rng)
        else:
            edit = HARD[chosen](world, rng)
        if edit is not None:
            return edit
