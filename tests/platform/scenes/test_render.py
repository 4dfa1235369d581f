import dataclasses
import random

import numpy as np
import pytest

from fireedit.platform.scenes import families, layout
from fireedit.platform.scenes.render import MIRROR, box_of, draw_scene
from fireedit.platform.scenes.scene import EFFECTS, Mirror, Placed, Scene
from fireedit.platform.scenes.world import TRAIN


def test_a_scene_is_the_same_picture_at_every_size() -> None:
    scenes = [layout.sample_scene(TRAIN, random.Random(seed)) for seed in range(5)]
    for scene in scenes + [families.make_edit(TRAIN, seed, "mirror").source for seed in range(10)]:
        small, big = draw_scene(scene, 32), draw_scene(scene, 256)
        assert np.abs(big.image.reshape(32, 8, 32, 8, 3).mean((1, 3)) - small.image).mean() < 8
        for placed in scene.objects:
            wanted = np.array(placed.box) * 256
            assert np.abs(np.array(box_of(big.masks[placed.id])) - wanted).max() < 24


def test_masks_hold_visible_pixels_only() -> None:
    behind, front = Placed(1, "house", 0.5, 0.8, 12), Placed(2, "car", 0.5, 0.85, 6)
    picture = draw_scene(Scene("a green hill", 0, (front, behind)), 64)
    assert not (picture.masks[1] & picture.masks[2]).any()
    alone = draw_scene(Scene("a green hill", 0, (front,)), 64)
    np.testing.assert_array_equal(picture.masks[2], alone.masks[2])


def test_no_pixel_far_from_the_edited_objects_ever_changes() -> None:
    size = 64
    for family in set(families.FAMILIES) - {"background", "style"}:
        for seed in range(15):
            edit = families.make_edit(TRAIN, seed, family)
            before, after = draw_scene(edit.source, size), draw_scene(edit.target, size)
            near = np.zeros((size, size), bool)
            for scene in (edit.source, edit.target):
                for placed in scene.objects:
                    if placed.id in edit.edited:
                        left, top, right, bottom = (round(edge * size) for edge in placed.box)
                        near[max(0, top - 2) : bottom + 5, max(0, left - 3) : right + 4] = True
            changed = (before.image != after.image).any(-1)
            assert changed.any(), f"{family} {seed}: nothing to see"
            assert not (changed & ~near).any(), f"{family} {seed}"


@pytest.mark.parametrize("size", [32, 64, 200])
def test_a_mirror_edit_changes_the_reflection_and_no_other_pixel(size: int) -> None:
    for seed in range(40):
        edit = families.make_edit(TRAIN, seed, "mirror")
        if edit.edited != (2,):
            continue
        before, after = draw_scene(edit.source, size), draw_scene(edit.target, size)
        left, top, right, bottom = (round(edge * size) for edge in edit.source.mirror.glass)
        outside = np.ones((size, size), bool)
        outside[top - 1 : bottom + 1, left - 1 : right + 1] = False
        changed = (before.image != after.image).any(-1)
        assert changed.any() and not (changed & outside).any(), f"{seed}"
        assert (changed | ~before.masks[2])[before.masks[2]].mean() > 0.8, "all of it goes"
        for number in {1, 3}:
            np.testing.assert_array_equal(before.masks[number], after.masks[number])
            assert not (changed & before.masks[number]).any()


def test_a_mirror_stands_behind_its_reflection_and_all_objects() -> None:
    mirror = Mirror(0.5, 0.8)
    objects = (Placed(1, "duck", 0.5, 0.95, 8), Placed(2, "duck", 0.5, 0.7, 7, reflection=True))
    masks = draw_scene(Scene("a green hill", 0, objects, mirror=mirror), 64).masks
    assert set(masks) == {MIRROR, 1, 2} and all(mask.any() for mask in masks.values())
    assert np.sum(list(masks.values()), axis=0).max() == 1, "a pixel shows one thing"


def test_a_reflection_is_a_faded_copy_without_a_shadow() -> None:
    mirror = Scene("a green hill", 0, mirror=Mirror(0.5, 0.9))
    shown = mirror.plus(Placed(1, "dog", 0.5, 0.8, 8, reflection=True))
    glass, seen = draw_scene(mirror, 64), draw_scene(shown, 64)
    real = draw_scene(mirror.plus(dataclasses.replace(shown.objects[0], reflection=False)), 64)
    near = np.abs(seen.image.astype(int) - glass.image).sum()
    assert 0 < near < np.abs(real.image.astype(int) - glass.image).sum()
    np.testing.assert_array_equal(seen.masks[1], real.masks[1])
    changed = (seen.image != glass.image).any(-1)
    assert box_of(changed)[3] <= round(0.8 * 64)


@pytest.mark.parametrize("effect", EFFECTS)
def test_every_effect_changes_the_picture_and_no_mask(effect: str) -> None:
    scene = layout.sample_scene(TRAIN, random.Random(3))
    plain, changed = draw_scene(scene, 64), draw_scene(dataclasses.replace(scene, effect=effect), 64)
    assert np.abs(plain.image.astype(int) - changed.image).mean() > 3
    assert changed.image.dtype == np.uint8 and changed.image.shape == (64, 64, 3)
    for number, mask in plain.masks.items():
        np.testing.assert_array_equal(mask, changed.masks[number])


def test_an_unknown_effect_is_refused() -> None:
    with pytest.raises(ValueError, match="no effect is called 'glitter'"):
        draw_scene(Scene("a green hill", 0, effect="glitter"), 32)


@pytest.mark.parametrize(("x", "y", "box"), [(0.0, 1.1, (0, 50, 30, 64)), (3.0, 0.9, (0, 0, 0, 0))])
def test_objects_across_the_edge_are_cropped(x: float, y: float, box: tuple[int, ...]) -> None:
    picture = draw_scene(Scene("a green hill", 0, (Placed(1, "bus", x, y, 10),)), 64)
    assert box_of(picture.masks[1]) == box


def test_boxes_enclose_the_mask() -> None:
    mask = np.zeros((10, 10), bool)
    mask[2:5, 3:9] = True
    assert box_of(mask) == (3, 2, 9, 5)
