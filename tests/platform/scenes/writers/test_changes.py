import numpy as np
import pytest

from fireedit.platform.scenes import families, world
from fireedit.platform.scenes.writers import changes


def test_a_pixel_differs_if_one_of_its_channels_does() -> None:
    before = np.zeros((2, 3, 3), np.uint8)
    after = before.copy()
    after[1, 2, 1] = 1
    assert changes.region(before, after).tolist() == [[False] * 3, [False, False, True]]


@pytest.mark.parametrize("family", ["add", "recolor", "replace"])
def test_an_edited_object_is_named_as_it_looks_afterwards(family: str) -> None:
    for seed in range(6):
        edit = families.make_edit(world.TRAIN, seed, family)
        assert changes.local_caption(edit) in {placed.noun for placed in edit.target.objects}
        assert changes.local_caption(edit) not in {placed.noun for placed in edit.source.objects}


@pytest.mark.parametrize("family", ["remove", "multiple", "background", "style"])
def test_the_background_is_named_if_no_edited_object_is_left(family: str) -> None:
    edit = families.make_edit(world.TRAIN, 3, family)
    assert changes.local_caption(edit) == edit.target.background


def test_the_mirror_is_named_if_a_reflection_is_removed() -> None:
    edits = [families.make_edit(world.TRAIN, seed, "mirror") for seed in range(40)]
    gone = [edit for edit in edits if edit.operation == "remove"]
    assert {changes.local_caption(edit) for edit in gone} >= {"mirror"}
    for edit in gone:
        reflected = any(placed.reflection for placed in edit.source.objects if placed.id in edit.edited)
        assert (changes.local_caption(edit) == "mirror") == reflected
