import random

from fireedit.platform.data.scenes import layout
from fireedit.platform.data.scenes.world import TRAIN


def test_a_scene_is_its_seeds() -> None:
    assert layout.sample_scene(TRAIN, random.Random(5)) == layout.sample_scene(TRAIN, random.Random(5))
    assert layout.sample_scene(TRAIN, random.Random(5)) != layout.sample_scene(TRAIN, random.Random(6))


def test_a_scene_has_what_was_asked_for_first() -> None:
    for seed in range(30):
        scene = layout.sample_scene(TRAIN, random.Random(seed), count=4, must=("key", "bus"))
        assert [placed.name for placed in scene.objects[:2]] == ["key", "bus"]
        assert len(scene.names) == 4 and [placed.id for placed in scene.objects] == [1, 2, 3, 4]
        assert all(scene.has_room_for(placed) for placed in scene.objects)


def test_flying_things_fly() -> None:
    for seed in range(100):
        for placed in layout.sample_scene(TRAIN, random.Random(seed)).objects:
            assert (placed.y <= layout.SKY[1]) == placed.thing.flies


def test_twins_differ_in_what_was_asked_for() -> None:
    for seed in range(60):
        rng = random.Random(seed)
        for differ in ("side", "size", "color"):
            scene = layout.sample_twins(TRAIN, rng, differ)
            if scene is None:
                continue
            one, other = scene.objects
            assert one.name == other.name and abs(one.x - other.x) > 0.15
            assert (one.height != other.height) == (differ == "size")
            assert (one.looks != other.looks) == (differ == "color")


def test_a_mirror_shows_the_first_thing_in_its_glass() -> None:
    scenes = [scene for seed in range(60) if (scene := layout.sample_mirror(TRAIN, random.Random(seed)))]
    assert len(scenes) > 30
    for scene in scenes:
        assert all(scene.has_room_for(placed) for placed in scene.objects)
        thing, reflection, other = scene.objects
        assert (thing.name, thing.color, thing.mirrored) == (reflection.name, reflection.color, not reflection.mirrored)
        assert [placed.reflection for placed in scene.objects] == [False, True, False]
        assert reflection.height < thing.height and other.name != thing.name
