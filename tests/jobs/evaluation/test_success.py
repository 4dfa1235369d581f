"""An edit succeeds if what was asked for happened and nothing else did."""

import dataclasses

import pytest

from fireedit.jobs.evaluation.cases import FAMILIES, session
from fireedit.jobs.evaluation.scene_reader import Reading, Seen
from fireedit.jobs.evaluation.success import judge, true_reading
from fireedit.platform.scenes.edits import Edit
from fireedit.platform.scenes.families import NO_OP, make_edit
from fireedit.platform.scenes.world import WORLDS

WORLD = WORLDS["unseen_seeds"]
SEEDS = WORLD.seeds[:25]


def changed(reading: Reading, index: int, **fields: object) -> Reading:
    """The reading with one object seen otherwise."""
    objects = list(reading.objects)
    objects[index] = dataclasses.replace(objects[index], **fields)
    return dataclasses.replace(reading, objects=tuple(objects))


def moved(seen: Seen, right: float) -> Seen:
    left, top, other, bottom = seen.box
    return dataclasses.replace(seen, box=(left + right, top, other + right, bottom))


def local_edits(family: str) -> list[Edit]:
    return [make_edit(WORLD, seed, family) for seed in SEEDS]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_target_succeeds_and_the_source_does_not(family: str) -> None:
    for edit in local_edits(family):
        assert judge([edit], true_reading(edit.target)).success, edit.instruction
        assert judge([edit], true_reading(edit.source)).success == (family == NO_OP), edit.instruction


def test_what_is_told_by_its_use_is_judged_as_the_rest() -> None:
    world = WORLDS["knowledge"]
    for edit in (make_edit(world, seed) for seed in world.seeds[:25]):
        assert judge([edit], true_reading(edit.target)).success
        assert not judge([edit], true_reading(edit.source)).success


def test_one_of_a_row_is_not_another() -> None:
    for edit in local_edits("ordinal"):
        if edit.operation == "remove":
            for other in edit.target.objects:
                assert not judge([edit], true_reading(edit.source.without(other.id))).success


@pytest.mark.parametrize("family", ["remove", "recolor", "left_right", "mirror", NO_OP])
def test_nothing_else_may_happen(family: str) -> None:
    for edit in local_edits(family):
        right = true_reading(edit.target)
        too_many = Seen("dog", (0.0, 0.0, 0.2, 0.2), "red", False, 0.9)
        bystander = next(index for index, one in enumerate(edit.target.objects) if one.id not in edit.edited)
        seen = right.objects[bystander]
        for wrong in (
            dataclasses.replace(right, objects=(*right.objects, too_many)),
            dataclasses.replace(right, objects=right.objects[:-1]),
            dataclasses.replace(right, background="elsewhere"),
            dataclasses.replace(right, effect="blur"),
            dataclasses.replace(right, mirror=None if right.mirror else (0.3, 0.8)),
            changed(right, bystander, name="something"),
            changed(right, bystander, box=moved(seen, 0.2).box),
            changed(right, bystander, reflection=not seen.reflection),
        ):
            assert not judge([edit], wrong).success


def test_a_colour_counts_where_one_can_be_told() -> None:
    for edit in local_edits("recolor"):
        index = next(index for index, one in enumerate(edit.target.objects) if one.id in edit.edited)
        assert not judge([edit], changed(true_reading(edit.target), index, color="another")).success
    for edit in local_edits("style"):
        if edit.target.effect == "black and white":
            reading = true_reading(edit.target)
            grey = tuple(dataclasses.replace(seen, color="white") for seen in reading.objects)
            assert judge([edit], dataclasses.replace(reading, objects=grey)).success


def test_what_an_instruction_leaves_open_is_left_open() -> None:
    """A thing may be added anywhere on the side that is named, in any colour if none is."""
    for edit in local_edits("add"):
        reading, placed = true_reading(edit.target), edit.target.objects[-1]
        seen = reading.objects[-1]
        further = moved(seen, 0.02 if "right" in edit.instruction else -0.02)
        if "top" not in edit.instruction:
            assert judge([edit], changed(reading, -1, box=further.box)).success
            across = moved(seen, 1.0 if "left" in edit.instruction else -1.0)
            assert not judge([edit], changed(reading, -1, box=across.box)).success
        if placed.looks:
            other = changed(reading, -1, color="another")
            assert judge([edit], other).success == (not placed.color)


def test_half_the_way_bigger_is_not_bigger() -> None:
    for edit in local_edits("resize"):
        index = next(index for index, one in enumerate(edit.target.objects) if one.id in edit.edited)
        one, other = edit.source.objects[index].box, edit.target.objects[index].box
        for share, success in ((0.2, False), (0.8, True)):
            between = [(1 - share) * there + share * here for there, here in zip(one, other, strict=True)]
            assert judge([edit], changed(true_reading(edit.target), index, box=tuple(between))).success == success


def test_the_last_scene_of_a_session_is_judged_with_all_that_was_asked_for() -> None:
    found = [turns for seed in SEEDS if (turns := session(WORLD, seed))]
    assert len(found) > 5
    for turns in found:
        assert judge(turns, true_reading(turns[-1].target)).success
        assert not judge(turns, true_reading(turns[-1].source)).success


def test_a_failure_is_told_in_words() -> None:
    edit = make_edit(WORLD, SEEDS[0], "remove")
    gone = next(one.name for one in edit.source.objects if one.id in edit.edited)
    assert judge([edit], true_reading(edit.source)).wrong == (f"a {gone} too many",)
