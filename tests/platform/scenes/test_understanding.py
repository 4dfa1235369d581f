import re

import pytest

from fireedit.platform.scenes import families
from fireedit.platform.scenes.objects import THINGS
from fireedit.platform.scenes.world import TRAIN


@pytest.mark.parametrize("family", ["left_right", "relative_size", "color"])
def test_the_word_picks_the_right_one_of_two(family: str) -> None:
    for seed in range(60):
        edit = families.make_edit(TRAIN, seed, family)
        chosen = next(placed for placed in edit.source.objects if placed.id in edit.edited)
        other = next(placed for placed in edit.source.objects if placed.id not in edit.edited)
        word = {
            "left_right": "left" if chosen.x < other.x else "right",
            "relative_size": "bigger" if chosen.height > other.height else "smaller",
            "color": chosen.color,
        }[family]
        assert f"the {word} " in edit.instruction
        assert other in edit.target.objects


def test_multiple_removes_two_objects() -> None:
    for seed in range(40):
        edit = families.make_edit(TRAIN, seed, "multiple")
        assert len(edit.source.objects) == 4 and edit.target == edit.source.without(*edit.edited)
        assert len(edit.edited) == 2


def test_reasoning_never_names_the_object() -> None:
    for seed in range(60):
        edit = families.make_edit(TRAIN, seed, "reasoning")
        chosen = next(placed for placed in edit.source.objects if placed.id in edit.edited)
        assert chosen.thing.use in edit.instruction
        assert f"the {chosen.name} " not in edit.instruction
        assert sum(THINGS[name].use == chosen.thing.use for name in edit.source.names) == 1


def test_mirror_edits_the_reflection_or_the_thing_as_instructed() -> None:
    edits = [families.make_edit(TRAIN, seed, "mirror") for seed in range(100)]
    for edit in edits:
        thing, reflection, _ = edit.source.objects
        (number,) = edit.edited
        assert (thing.name, thing.color) == (reflection.name, reflection.color)
        assert thing.mirrored != reflection.mirrored and reflection.reflection and not thing.reflection
        inside = re.search("in the mirror|the reflection of", edit.instruction) is not None
        assert inside == (number == reflection.id) != ("outside the mirror" in edit.instruction)
        kept = thing if inside else reflection
        assert kept in edit.target.objects and edit.target.mirror == edit.source.mirror
    assert 55 < sum(edit.edited == (2,) for edit in edits) < 85


def test_the_ordinal_counts_from_the_named_side() -> None:
    for seed in range(60):
        edit = families.make_edit(TRAIN, seed, "ordinal")
        ordered = sorted(edit.source.objects, key=lambda placed: placed.x)
        if "from the right" in edit.instruction:
            ordered.reverse()
        word = next(place for place, word in enumerate(("first", "second", "third")) if f"the {word} " in edit.plain)
        assert edit.edited == (ordered[word].id,)
        assert all(placed in edit.target.objects for placed in ordered if placed.id not in edit.edited)
