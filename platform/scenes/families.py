"""Families of edits: an edit by its seed, and a follow-up of another edit."""

import dataclasses
import random

from fireedit.platform.scenes import layout
from fireedit.platform.scenes.edits import PLAIN, Edit
from fireedit.platform.scenes.scene import Scene
from fireedit.platform.scenes.understanding import HARD
from fireedit.platform.scenes.world import World

NO_OP = "no_op"
"""Family of requests about a thing that is missing: the picture should stay as it is. Drawn only if named."""
FAMILIES = (*PLAIN, *HARD)
LOCAL = tuple(family for family in FAMILIES if family not in ("background", "style"))
"""Families whose edits are about objects; the others are about the whole picture."""
NO_OP_SHARE = 0.12
"""Share of no-ops among the edits that `training_edit` draws."""
MOST_DRAWS = 5_000
"""Scenes tried for one edit; the rarest edits need about a hundred."""
MOST_DRAWS_ON = 20
"""Edits tried on one scene, which may have no room for any."""
_ABOUT_A_THING = ("remove", "replace", "recolor", "move", "resize")


def make_edit(world: World, seed: int, family: str | None = None) -> Edit:
    """Draw the edit of a seed, of the family given or of a uniformly drawn one.

    Raises:
        ValueError: the seed belongs to another world, or this one has no edits of the family.
    """
    world.require(seed)
    rng = random.Random(seed)
    drawn = families_of(world)
    if family == NO_OP and not world.families:
        return _no_op(world, rng)
    family = family or rng.choice(drawn)
    for _ in range(MOST_DRAWS if family in drawn else 0):
        if family in PLAIN:
            edit = PLAIN[family](world, layout.sample_scene(world, rng), rng)
        else:
            edit = HARD[family](world, rng)
        if edit is not None and world.allows(edit.pairs):
            return edit
    raise ValueError(
        f"the world {world.name!r} has no edits of the family {family!r}; ask for one of {', '.join(drawn)}"
    )


def families_of(world: World) -> tuple[str, ...]:
    """List the families of a world's edits; those of the whole picture are left out if edits are bound to things."""
    return world.families or (LOCAL if world.only else FAMILIES)


def training_edit(world: World, seed: int) -> Edit:
    """Draw the edit of a seed to train on: a NO_OP_SHARE of them leave the picture as it is."""
    is_no_op = random.Random(f"is no-op {seed}").random() < NO_OP_SHARE
    return make_edit(world, seed, NO_OP if is_no_op and not world.families else None)


def follow_up(world: World, scene: Scene, rng: random.Random) -> Edit | None:
    """Draw an edit of an already edited scene by the same rules; None if there is none.

    A scene with a style has no follow-up: colors cannot be recognized in a black and white photo.
    """
    plain = [family for family in PLAIN if family in (world.families or PLAIN)]
    for _ in range(MOST_DRAWS_ON if plain and scene.objects and not scene.effect else 0):
        edit = PLAIN[rng.choice(plain)](world, scene, rng)
        if edit is not None and world.allows(edit.pairs):
            return edit
    return None


def _no_op(world: World, rng: random.Random) -> Edit:
    """Draw a request made for another scene, about a thing that this scene does not have."""
    scene = layout.sample_scene(world, rng)
    while True:
        edit = PLAIN[rng.choice(_ABOUT_A_THING)](world, layout.sample_scene(world, rng), rng)
        if edit is not None and world.allows(edit.pairs) and _is_absent(edit, scene):
            return dataclasses.replace(edit, family=NO_OP, source=scene, target=scene, edited=())


def _is_absent(edit: Edit, scene: Scene) -> bool:
    """Check that the scene shows no object that the edit is about or would put in its place."""
    edited = [placed for placed in (*edit.source.objects, *edit.target.objects) if placed.id in edit.edited]
    called = {placed.thing.category for placed in edited if f"the {placed.thing.category}" in edit.instruction}
    names = {placed.name for placed in edited}
    return not any(placed.name in names or placed.thing.category in called for placed in scene.objects)
