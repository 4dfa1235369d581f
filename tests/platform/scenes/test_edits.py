import dataclasses
import random

import pytest

from fireedit.platform.scenes import edits, families, layout
from fireedit.platform.scenes.scene import Placed
from fireedit.platform.scenes.world import TRAIN

SEEDS = range(60)


def all_of(family: str) -> list[edits.Edit]:
    return [families.make_edit(TRAIN, seed, family) for seed in SEEDS]


def changed(edit: edits.Edit) -> tuple[Placed, Placed]:
    """Return the edited object before and after."""
    (number,) = edit.edited
    before, after = (
        next(placed for placed in scene.objects if placed.id == number) for scene in (edit.source, edit.target)
    )
    assert edit.target.with_changed(before) == edit.source, "nothing else may change"
    return before, after


def test_add_puts_one_object_at_the_named_place() -> None:
    for edit in all_of("add"):
        (number,) = edit.edited
        assert edit.target.without(number) == edit.source
        new = edit.target.objects[-1]
        assert new.name in edit.instruction and new.color in edit.instruction
        if "on the left" in edit.instruction:
            assert new.x < 0.5
        if " to the right of the " in edit.instruction:
            assert any(placed.x < new.x for placed in edit.source.objects)


def test_remove_takes_away_one_object_and_leaves_one() -> None:
    for edit in all_of("remove"):
        assert edit.target == edit.source.without(*edit.edited) and edit.target.objects


def test_replace_names_the_new_object() -> None:
    for edit in all_of("replace"):
        before, after = changed(edit)
        assert before.name != after.name and edits.noun_phrase(after) in edit.instruction
        assert before.thing.flies == after.thing.flies


def test_recolor_always_shows_another_color() -> None:
    for edit in all_of("recolor"):
        before, after = changed(edit)
        assert before.looks != after.looks and after.color in edit.instruction


@pytest.mark.parametrize(("family", "more", "less"), [("move", "right", "left"), ("resize", "bigger", "smaller")])
def test_moves_and_resizes_follow_the_instruction(family: str, more: str, less: str) -> None:
    for edit in all_of(family):
        before, after = changed(edit)
        grown = after.x > before.x if family == "move" else after.height > before.height
        assert (f"{more}." in edit.instruction) == grown and (f"{less}." in edit.instruction) != grown


def test_backgrounds_and_styles_leave_every_object() -> None:
    for edit in all_of("background") + all_of("style"):
        assert edit.target.objects == edit.source.objects and not edit.edited
    assert all(edit.target.background in edit.instruction for edit in all_of("background"))
    assert {edit.target.effect for edit in all_of("style")} == set(edits.STYLES.values())


def test_pairs_name_the_edited_things_before_and_after() -> None:
    for edit in all_of("replace"):
        before, after = changed(edit)
        assert edit.pairs == {("replace", before.name), ("replace", after.name)}
    assert not any(edit.pairs for edit in all_of("style"))


def test_a_thing_without_another_of_its_kind_is_not_replaced() -> None:
    scene = layout.sample_scene(TRAIN, random.Random(0), count=3)
    world = dataclasses.replace(TRAIN, things=tuple(scene.names))
    assert edits.exchange(world, scene, scene.objects[0], random.Random(0)) is None


@pytest.mark.parametrize("family", ["add", "recolor", "replace"])
def test_the_local_caption_names_the_edited_object_as_it_looks_afterwards(family: str) -> None:
    for edit in all_of(family)[:6]:
        assert edit.local_caption in {placed.noun for placed in edit.target.objects}
        assert edit.local_caption not in {placed.noun for placed in edit.source.objects}


@pytest.mark.parametrize("family", ["remove", "multiple", "background", "style", "mirror"])
def test_the_local_caption_names_the_place_if_no_edited_object_is_left(family: str) -> None:
    for edit in all_of(family):
        if edit.operation in ("remove", "background", "style"):
            reflected = any(placed.reflection for placed in edit.source.objects if placed.id in edit.edited)
            assert edit.local_caption == ("mirror" if reflected else edit.target.background)
