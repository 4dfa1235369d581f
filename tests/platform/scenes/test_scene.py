from fireedit.platform.scenes.scene import Mirror, Placed, Scene

DOG = Placed(1, "dog", 0.2, 0.9, 8)
CAR = Placed(2, "car", 0.7, 0.9, 6, color="blue")
SCENE = Scene("a sandy beach", 0, (DOG, CAR))


def test_boxes_stand_on_their_lower_edge() -> None:
    left, top, right, bottom = DOG.box
    assert bottom == 0.9 and top == 0.9 - 8 / 32
    assert abs((left + right) / 2 - 0.2) < 1e-9 and right > left


def test_visible_color_and_noun_differ_for_unpainted_objects() -> None:
    assert (CAR.noun, CAR.looks) == ("blue car", "blue")
    plain = Placed(3, "car", 0.5, 0.9, 8)
    assert (plain.noun, plain.looks) == ("car", "red"), "the artwork's own color is visible and not part of the noun"
    assert DOG.looks == ""


def test_changes_return_new_scenes() -> None:
    assert SCENE.without(1).objects == (CAR,) and len(SCENE.objects) == 2
    moved = Placed(2, "car", 0.2, 0.9, 8)
    assert SCENE.with_changed(moved).objects == (DOG, moved)
    assert SCENE.next_id == 3 and SCENE.plus(Placed(3, "cat", 0.5, 0.7, 7)).next_id == 4


def test_there_is_no_room_outside_or_on_top_of_another() -> None:
    assert not SCENE.has_room_for(Placed(3, "cat", 0.02, 0.9, 8))
    assert not SCENE.has_room_for(Placed(3, "cat", 0.22, 0.88, 8))
    assert SCENE.has_room_for(Placed(3, "cat", 0.5, 0.5, 8))
    assert SCENE.has_room_for(Placed(1, "dog", 0.22, 0.88, 8)), "its own old place is free"


def test_reflections_have_room_in_the_glass_and_real_things_beside_the_mirror() -> None:
    scene = Scene("a sandy beach", 0, mirror=Mirror(0.3, 0.8))
    seen, real = Placed(1, "cat", 0.3, 0.75, 6, reflection=True), Placed(2, "cat", 0.75, 0.8, 6)
    assert scene.has_room_for(seen) and not scene.has_room_for(Placed(1, "cat", 0.3, 0.79, 6, reflection=True))
    assert scene.has_room_for(real) and not scene.has_room_for(Placed(2, "cat", 0.4, 0.8, 6))
