import dataclasses
import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fireedit.platform.scenes import families, language, layout, referring, sprites
from fireedit.platform.scenes.edits import Edit
from fireedit.platform.scenes.objects import THINGS
from fireedit.platform.scenes.scene import Placed, Scene
from fireedit.platform.scenes.understanding import HARD
from fireedit.platform.scenes.world import HELD_OUT_PAIRS, TRAIN, WORLDS, World
from fireedit.platform.scenes.writers import magicbrush, reasonedit, ultraedit

HELD_OUT = [world for world in WORLDS.values() if world is not TRAIN]
DIALOGUE_ONLY = [thing for thing in THINGS.values() if thing.taught == "dialogue"]
BY_SEED: list[Callable[[World, int], Any]] = [
    families.make_edit,
    families.training_edit,
    referring.make_reference,
    magicbrush.session,
    reasonedit.hard_edit,
    ultraedit.region_edit,
]


def every_edit(world: World, count: int) -> Iterator[Edit]:
    """Draw the edits of the writers for `count` seeds: region-based, hard, and sessions of several turns."""
    for seed in world.seeds[:count]:
        yield ultraedit.region_edit(world, seed)
        yield reasonedit.hard_edit(world, seed)
        yield from magicbrush.session(world, seed)


def test_a_seed_repeats_its_edit() -> None:
    for family in families.FAMILIES:
        assert families.make_edit(TRAIN, 9, family) == families.make_edit(TRAIN, 9, family)
        assert families.make_edit(TRAIN, 9, family).family == family


def test_all_fifteen_families_are_drawn_about_equally_often() -> None:
    drawn = [families.make_edit(TRAIN, seed).family for seed in range(1500)]
    assert len(families.FAMILIES) == 15 and len(HARD) == 7
    assert all(60 < drawn.count(family) < 140 for family in families.FAMILIES)


def test_one_training_edit_in_eight_leaves_the_picture_as_it_is() -> None:
    drawn = [families.training_edit(TRAIN, seed) for seed in range(600)]
    idle = [edit for edit in drawn if edit.family == families.NO_OP]
    assert 50 < len(idle) < 95 and all(edit.source == edit.target for edit in idle)


def test_instructions_are_many_and_clean() -> None:
    texts = [families.make_edit(TRAIN, seed).instruction for seed in range(1000)]
    assert len(set(texts)) > 700
    for text in texts:
        assert text[0].isupper() and text[-1] in ".?" and "{" not in text and "  " not in text and "None" not in text


def test_the_operation_matches_the_change() -> None:
    for seed in range(600):
        edit = families.make_edit(TRAIN, seed)
        if edit.family in HARD:
            gone = set(edit.edited) - {placed.id for placed in edit.target.objects}
            assert edit.operation == ("remove" if gone else "replace")
        else:
            assert edit.operation == edit.family
        assert bool(edit.pairs) == (edit.operation not in ("background", "style"))


@pytest.mark.parametrize("draw", BY_SEED)
@pytest.mark.parametrize("world", HELD_OUT, ids=lambda world: world.name)
def test_a_training_run_can_never_draw_a_test_scene(world: World, draw: Callable[[World, int], Any]) -> None:
    for seed in (world.seeds[0], world.seeds[-1]):
        with pytest.raises(ValueError, match=f"seed {seed} is not of the world 'train'"):
            draw(TRAIN, seed)
    with pytest.raises(ValueError, match=f"seed 7 is not of the world '{world.name}'"):
        draw(world, 7)


def test_no_training_edit_is_of_a_held_out_pair() -> None:
    edits = list(every_edit(TRAIN, 1000))
    pairs = {pair for edit in edits for pair in edit.pairs}
    assert len(edits) > 3300 and len(pairs) > 90
    assert not pairs & set(HELD_OUT_PAIRS)


def test_training_has_every_thing_and_operation_that_unseen_pairs_combine() -> None:
    pairs = {pair for edit in every_edit(TRAIN, 500) for pair in edit.pairs}
    assert {operation for operation, _ in HELD_OUT_PAIRS} <= {operation for operation, _ in pairs}
    assert {thing for _, thing in pairs} == set(TRAIN.things)


def test_unseen_pairs_draws_held_out_pairs_only_and_all_of_them() -> None:
    edits = list(every_edit(WORLDS["unseen_pairs"], 150))
    assert all(edit.pairs & set(HELD_OUT_PAIRS) for edit in edits)
    assert set(HELD_OUT_PAIRS) <= {pair for edit in edits for pair in edit.pairs}


def test_a_family_that_a_world_cannot_draw_is_refused() -> None:
    world = WORLDS["unseen_pairs"]
    with pytest.raises(ValueError, match="'unseen_pairs' has no edits.*'style'"):
        families.make_edit(world, world.seeds[0], "style")


def test_unseen_objects_shows_no_trained_thing() -> None:
    for edit in every_edit(WORLDS["unseen_objects"], 100):
        assert not (edit.source.names | edit.target.names) & set(TRAIN.things)


def test_photos_shows_trained_things_in_front_of_photos_only() -> None:
    world = WORLDS["photos"]
    for edit in every_edit(world, 100):
        assert {edit.source.background, edit.target.background} <= set(world.backgrounds)
        assert edit.source.names | edit.target.names <= set(TRAIN.things)


@pytest.mark.usefixtures("noto")
def test_unseen_artwork_draws_every_object_in_it() -> None:
    for edit in every_edit(WORLDS["unseen_artwork"], 100):
        assert all(placed.artwork == "noto" for scene in (edit.source, edit.target) for placed in scene.objects)


def test_no_training_instruction_or_caption_mentions_uses_that_only_dialogue_teaches() -> None:
    uses = [thing.use for thing in DIALOGUE_ONLY]
    assert len(uses) == 7
    for edit in every_edit(TRAIN, 400):
        texts = f"{edit.instruction} {edit.plain} {language.caption(edit.source)} {language.caption(edit.target)}"
        assert not [use for use in uses if use in texts]
        if any(placed.name == "bus" for placed in edit.source.objects if placed.id in edit.edited):
            assert "the vehicle" not in edit.instruction or "car" in edit.plain or "airplane" in edit.plain


def test_knowledge_refers_to_things_by_the_uses_that_only_dialogue_teaches() -> None:
    world = WORLDS["knowledge"]
    edits = [families.make_edit(world, seed) for seed in world.seeds[:80]]
    chosen = [next(placed for placed in edit.source.objects if placed.id in edit.edited).thing for edit in edits]
    assert {thing.name for thing in chosen} == {thing.name for thing in DIALOGUE_ONLY}
    for edit, thing in zip(edits, chosen, strict=True):
        assert edit.family == "reasoning" and thing.use in edit.instruction and f"the {thing.name}" in edit.plain


def test_knowledge_has_no_other_edits() -> None:
    world = WORLDS["knowledge"]
    for family in ("remove", "color", families.NO_OP):
        with pytest.raises(ValueError, match=f"'knowledge' has no edits.*'{family}'.*reasoning"):
            families.make_edit(world, world.seeds[0], family)
    assert {families.training_edit(world, seed).family for seed in world.seeds[:40]} == {"reasoning"}
    assert reasonedit.hard_edit(world, world.seeds[0]).family == "reasoning"
    assert families.follow_up(world, families.make_edit(world, world.seeds[0]).source, random.Random(0)) is None


def test_the_plain_instruction_names_the_edited_objects() -> None:
    for seed in range(500):
        edit = families.make_edit(TRAIN, seed)
        edited = [placed for placed in edit.source.objects if placed.id in edit.edited]
        assert all(placed.name in edit.plain for placed in edited), edit
        if all(placed.name in edit.instruction for placed in edited) and " of the " not in edit.instruction:
            assert edit.plain == edit.instruction


@pytest.mark.parametrize("family", families.FAMILIES)
def test_every_object_stands_on_the_grid_before_and_after(family: str) -> None:
    for world, seed in itertools.product((TRAIN, WORLDS["unseen_objects"]), range(15)):
        edit = families.make_edit(world, world.seeds[seed], family)
        for scene in (edit.source, edit.target):
            assert scene.background_seed == 0
            for left, top, right, bottom in map(on_64_pixels, scene.objects):
                assert left % 4 == bottom % 4 == top % 4 == 0 and right > left
            if scene.mirror is not None:
                assert all(round(edge * 64) % 4 == 0 for edge in scene.mirror.box)


def on_64_pixels(placed: Placed) -> tuple[int, int, int, int]:
    """Compute left, top, right and bottom of the object's sprite as the renderer draws it."""
    width, height = sprites.draw(placed.name, placed.color, round(placed.height * 2)).mask.shape[::-1]
    left, top = round(placed.x * 64 - width / 2), round(placed.y * 64 - height)
    return left, top, left + width, top + height


def test_every_scene_with_objects_has_follow_ups() -> None:
    rng = random.Random(0)
    scene = layout.sample_scene(TRAIN, rng)
    for _ in range(30):
        edit = families.follow_up(TRAIN, scene, rng)
        if edit is not None:
            assert edit.source == scene
            scene = edit.target
    assert families.follow_up(TRAIN, Scene("a sandy beach", 0), rng) is None
    in_gray = dataclasses.replace(layout.sample_scene(TRAIN, rng), effect="black and white")
    assert families.follow_up(TRAIN, in_gray, rng) is None, "its colors cannot be recognized"


def test_a_request_about_a_missing_thing_leaves_the_picture_as_it_is() -> None:
    edits = [families.make_edit(TRAIN, seed, families.NO_OP) for seed in range(40)]
    for edit in edits:
        assert edit.family == families.NO_OP and edit.source == edit.target and not edit.edited
        named = [name for name in TRAIN.things if f"the {name}" in edit.instruction]
        assert not edit.source.names & set(named), edit.instruction
    assert len({edit.instruction for edit in edits}) > 30 and families.make_edit(TRAIN, 3, families.NO_OP) == edits[3]
    assert families.NO_OP not in families.FAMILIES, "seeds draw the same edits as before"
