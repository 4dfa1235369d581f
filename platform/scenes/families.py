"""All families of edits, an edit by its seed, and one that goes on from another."""

import dataclasses
import random

from fireedit.platform.scenes import layout
from fireedit.platform.scenes.edits import PLAIN, Edit
from fireedit.platform.scenes.scene import Scene
from fireedit.platform.scenes.understanding import HARD
from fireedit.platform.scenes.world import World

NO_OP = "no_op"
"""Asks for something to be done to a thing that is not there: the picture should stay as it is. Drawn only if named."""
FAMILIES = (*PLAIN, *HARD)
LOCAL = tuple(family for family in FAMILIES if family not in ("background", "style"))
"""Families whose edits are about things; the others are about the whole picture."""
NO_OP_SHARE = 0.12
"""Of the edits that `lesson` draws."""
MOST_DRAWS = 5_000
"""Scenes that are tried for one edit; the rarest edits of the worlds need about a hundred."""
MOST_DRAWS_ON = 20
"""Tries to go on from one scene, which may have no room for any edit."""
_ABOUT_A_THING = ("remove", "replace", "recolor", "move", "resize")


def make_edit(world: World, seed: int, family: str | None = None) -> Edit:
    """The edit of a seed: of the family asked for, or of one drawn at random, each as often as another.

    Raises:
        ValueError: the seed is of another world, or this one has no edits of the family.
    """
    world.require(seed)
    rng = random.Random(seed)
    drawn = families_of(world)
    if family == NO_OP and not world.families:
        return _no_op(world, rng)
    family = family or rng.choice(drawn)
    for _ in range(MOST_DRAWS if family in drawn else 0):
        edit = _draw(world, rng, family)
        if edit is not None and world.allows(edit.pairs):
            return edit
    raise ValueError(
        f"the world {world.name!r} has no edits of the family {family!r}; ask for one of {', '.join(drawn)}"
    )


def families_of(world: World) -> tuple[str, ...]:
    """The families of a world's edits: none of the whole picture where every edit must be of some things."""
    return world.families or (LOCAL if world.only else FAMILIES)


def lesson(world: World, seed: int) -> Edit:
    """The edit of a seed to learn from: now and then the right answer is to leave the picture alone."""
    is_no_op = random.Random(f"is no-op {seed}").random() < NO_OP_SHARE
    return make_edit(world, seed, NO_OP if is_no_op and not world.families else None)


def go_on(world: World, scene: Scene, rng: random.Random) -> Edit | None:
    """An edit of a scene that an edit has made, by the same rules, or None if none is found.

    None goes on from a style: colours cannot be told in a black and white photo.
    """
    plain = [family for family in PLAIN if family in (world.families or PLAIN)]
    for _ in range(MOST_DRAWS_ON if plain and scene.objects and not scene.effect else 0):
        edit = PLAIN[rng.choice(plain)](world, scene, rng)
        if edit is not None and world.allows(edit.pairs):
            return edit
    return None


def _draw(world: World, rng: random.Random, family: str) -> Edit | None:
    if family in PLAIN:
        return PLAIN[family](world, layout.sample_scene(world, rng), rng)
    return HARD[family](world, rng)


def _no_op(world: World, rng: random.Random) -> Edit:
    """A request that was made for another scene and is about a thing that this one does not have."""
    scene = layout.sample_scene(world, rng)
    while True:
        edit = PLAIN[rng.choice(_ABOUT_A_THING)](world, layout.sample_scene(world, rng), rng)
        if edit is not None and world.allows(edit.pairs) and _is_absent(edit, scene):
            return dataclasses.replace(edit, family=NO_OP, source=scene, target=scene, edited=())


def _is_absent(edit: Edit, scene: Scene) -> bool:
    """Whether nothing in the scene can be taken for what the edit is about, nor is what would take its place there."""
    about = [placed for placed in (*edit.source.objects, *edit.target.objects) if placed.id in edit.edited]
    called = {placed.thing.category for placed in about if f"the {placed.thing.category}" in edit.instruction}
    names = {placed.name for placed in about}
    return not any(placed.name in names or placed.thing.category in called for placed in scene.objects)
