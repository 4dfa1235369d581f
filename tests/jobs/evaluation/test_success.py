"""An edit succeeds if the requested change took place and nothing else changed."""

import dataclasses

import pytest

from fireedit.jobs.evaluation.cases import FAMILIES, session
from fireedit.jobs.evaluation.scene_reader import DetectedObject, SceneReading
from fireedit.jobs.evaluation.success import faults
from fireedit.platform.scenes.edits import Edit
from fireedit.platform.scenes.families import NO_OP, make_edit
from fireedit.platform.scenes.scene import Scene
from fireedit.platform.scenes.world import WORLDS, World

WORLD = WORLDS["unseen_seeds"]
SEEDS = WORLD.seeds[:25]


def true_reading(scene: Scene) -> SceneReading:
    """Reading of a scene's picture without errors."""
    objects = tuple(DetectedObject(each.name, each.box, each.looks, each.reflection, 1.0) for each in scene.objects)
    mirror = (scene.mirror.x, scene.mirror.y) if scene.mirror else None
    return SceneReading(objects, scene.background, scene.effect, mirror)


def changed(reading: SceneReading, index: int, **fields: object) -> SceneReading:
    """Copy a reading with some fields of one object changed."""
    objects = list(reading.objects)
    objects[index] = dataclasses.replace(objects[index], **fields)
    return dataclasses.replace(reading, objects=tuple(objects))


def moved(detected: DetectedObject, shift: float) -> DetectedObject:
    left, top, right, bottom = detected.box
    return dataclasses.replace(detected, box=(left + shift, top, right + shift, bottom))


def local_edits(family: str) -> list[Edit]:
    return [make_edit(WORLD, seed, family) for seed in SEEDS]


@pytest.mark.parametrize(
    ("world", "family"), [*((WORLD, family) for family in FAMILIES), (WORLDS["knowledge"], "reasoning")]
)
def test_the_target_succeeds_and_the_source_does_not(world: World, family: str) -> None:
    for edit in (make_edit(world, seed, family) for seed in world.seeds[:25]):
        assert not faults([edit], true_reading(edit.target)), edit.instruction
        assert (not faults([edit], true_reading(edit.source))) == (family == NO_OP), edit.instruction


def test_another_object_of_the_row_fails() -> None:
    for edit in local_edits("ordinal"):
        if edit.operation == "remove":
            for other in edit.target.objects:
                assert faults([edit], true_reading(edit.source.without(other.id)))


@pytest.mark.parametrize("family", ["remove", "recolor", "left_right", "mirror", NO_OP])
def test_any_other_change_fails(family: str) -> None:
    for edit in local_edits(family):
        true = true_reading(edit.target)
        too_many = DetectedObject("dog", (0.0, 0.0, 0.2, 0.2), "red", False, 0.9)
        bystander = next(index for index, placed in enumerate(edit.target.objects) if placed.id not in edit.edited)
        detected = true.objects[bystander]
        for wrong in (
            dataclasses.replace(true, objects=(*true.objects, too_many)),
            dataclasses.replace(true, objects=true.objects[:-1]),
            dataclasses.replace(true, background="elsewhere"),
            dataclasses.replace(true, effect="blur"),
            dataclasses.replace(true, mirror=None if true.mirror else (0.3, 0.8)),
            changed(true, bystander, name="something"),
            changed(true, bystander, box=moved(detected, 0.2).box),
            changed(true, bystander, reflection=not detected.reflection),
        ):
            assert faults([edit], wrong)


def test_colors_count_unless_an_effect_hides_them() -> None:
    for edit in local_edits("recolor"):
        index = next(index for index, placed in enumerate(edit.target.objects) if placed.id in edit.edited)
        assert faults([edit], changed(true_reading(edit.target), index, color="another"))
    for edit in local_edits("style"):
        if edit.target.effect == "black and white":
            reading = true_reading(edit.target)
            white = tuple(dataclasses.replace(detected, color="white") for detected in reading.objects)
            assert not faults([edit], dataclasses.replace(reading, objects=white))


def test_every_choice_that_the_instruction_leaves_open_succeeds() -> None:
    """An object may be added anywhere on the named side, in any color if none is named."""
    for edit in local_edits("add"):
        reading, placed = true_reading(edit.target), edit.target.objects[-1]
        detected = reading.objects[-1]
        further = moved(detected, 0.02 if "right" in edit.instruction else -0.02)
        if "top" not in edit.instruction:
            assert not faults([edit], changed(reading, -1, box=further.box))
            across = moved(detected, 1.0 if "left" in edit.instruction else -1.0)
            assert faults([edit], changed(reading, -1, box=across.box))
        if placed.looks:
            other = changed(reading, -1, color="another")
            assert (not faults([edit], other)) == (not placed.color)


def test_a_resize_must_go_more_than_half_the_way() -> None:
    for edit in local_edits("resize"):
        index = next(index for index, placed in enumerate(edit.target.objects) if placed.id in edit.edited)
        source, target = edit.source.objects[index].box, edit.target.objects[index].box
        for share, success in ((0.2, False), (0.8, True)):
            between = [(1 - share) * old + share * new for old, new in zip(source, target, strict=True)]
            assert (not faults([edit], changed(true_reading(edit.target), index, box=tuple(between)))) == success


def test_the_last_scene_of_a_session_is_judged_by_all_edits() -> None:
    sessions = [turns for seed in SEEDS if (turns := session(WORLD, seed))]
    assert len(sessions) > 5
    for turns in sessions:
        assert not faults(turns, true_reading(turns[-1].target))
        assert faults(turns, true_reading(turns[-1].source))


def test_a_failure_states_its_reason() -> None:
    edit = make_edit(WORLD, SEEDS[0], "remove")
    removed = next(placed.name for placed in edit.source.objects if placed.id in edit.edited)
    assert faults([edit], true_reading(edit.source)) == (f"a {removed} too many",)
