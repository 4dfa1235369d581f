import dataclasses
import random

from fireedit.platform.scenes import layout
from fireedit.platform.scenes.scene import Placed
from fireedit.platform.scenes.world import TRAIN


def test_a_scene_lists_the_required_things_first() -> None:
    for seed in range(30):
        scene = layout.sample_scene(TRAIN, random.Random(seed), count=4, required=("key", "bus"))
        assert [placed.name for placed in scene.objects[:2]] == ["key", "bus"]
        assert len(scene.names) == 4 and [placed.id for placed in scene.objects] == [1, 2, 3, 4]
        assert all(scene.has_room_for(placed) for placed in scene.objects)


def test_flying_things_fly() -> None:
    for seed in range(100):
        for placed in layout.sample_scene(TRAIN, random.Random(seed)).objects:
            assert (placed.y <= layout.SKY[1]) == placed.thing.flies


def test_twins_differ_in_the_given_way_only() -> None:
    for seed in range(60):
        rng = random.Random(seed)
        for differ in ("side", "size", "color"):
            scene = layout.sample_twins(TRAIN, rng, differ)
            if scene is None:
                continue
            first, second = scene.objects
            assert first.name == second.name and all(scene.has_room_for(placed) for placed in scene.objects)
            assert abs(first.x - second.x) > 0.15
            assert (first.height != second.height) == (differ == "size")
            assert (first.looks != second.looks) == (differ == "color")


def test_a_mirror_shows_the_first_thing_in_its_glass() -> None:
    scenes = [scene for seed in range(100) if (scene := layout.sample_mirror(TRAIN, random.Random(seed)))]
    assert len(scenes) > 30
    for scene in scenes:
        assert all(scene.has_room_for(placed) for placed in scene.objects)
        thing, reflection, other = scene.objects
        assert (thing.name, thing.color, thing.mirrored) == (reflection.name, reflection.color, not reflection.mirrored)
        assert [placed.reflection for placed in scene.objects] == [False, True, False]
        assert reflection.height < thing.height and other.name != thing.name


def test_three_in_a_row_are_alike_and_stand_from_left_to_right() -> None:
    scenes = [scene for seed in range(60) if (scene := layout.sample_row(TRAIN, random.Random(seed)))]
    assert len(scenes) > 45
    for scene in scenes:
        assert [placed.id for placed in sorted(scene.objects, key=lambda placed: placed.x)] == [1, 2, 3]
        assert len({(placed.name, placed.color, placed.height, placed.y) for placed in scene.objects}) == 1
        assert all(scene.has_room_for(placed) for placed in scene.objects)


def test_an_object_snaps_to_the_nearest_place_on_the_grid() -> None:
    placed = layout.snapped(TRAIN, Placed(1, "apple", 0.5, 0.9, 9))
    left, _, right, bottom = placed.box
    assert (placed.height, bottom) == (10, 14 / 16) and left * 16 == round(left * 16) and abs(placed.x - 0.5) < 1 / 32
    assert layout.snapped(TRAIN, placed) == placed


def test_a_world_without_a_grid_places_objects_anywhere() -> None:
    world = dataclasses.replace(TRAIN, grid=None, windows=1 << 30)
    scenes = [layout.sample_scene(world, random.Random(seed)) for seed in range(20)]
    assert len({scene.background_seed for scene in scenes}) == 20
    assert len({placed.y for scene in scenes for placed in scene.objects}) > 40
    assert layout.snapped(world, scenes[0].objects[0]) == scenes[0].objects[0]
