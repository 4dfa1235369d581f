from fireedit.platform.scenes import referring
from fireedit.platform.scenes.objects import THINGS
from fireedit.platform.scenes.scene import Placed, Scene
from fireedit.platform.scenes.world import TRAIN

REFERENCES = [referring.make_reference(TRAIN, seed) for seed in range(300)]


def test_none_one_and_several_are_about_equally_many() -> None:
    counts = [min(len(reference.ids), 2) for reference in REFERENCES]
    assert all(70 < counts.count(number) < 130 for number in (0, 1, 2))


def test_an_expression_without_objects_fits_no_object() -> None:
    for reference in REFERENCES:
        if reference.ids:
            continue
        for placed in reference.scene.objects:
            words = reference.expression.split(" on the ")[0]
            assert words != placed.name and words != f"{placed.looks} {placed.name}"


def test_one_object_is_named_and_all_of_a_category_are_meant() -> None:
    for reference in REFERENCES:
        chosen = [placed for placed in reference.scene.objects if placed.id in reference.ids]
        if len(chosen) == 1:
            thing = chosen[0].thing
            assert any(word and word in reference.expression for word in (thing.name, thing.category, thing.use))
            assert thing.name in reference.plain
        if reference.expression.startswith("all the "):
            category = reference.expression.removeprefix("all the ").removesuffix("s")
            others = [placed for placed in reference.scene.objects if placed not in chosen]
            assert {placed.thing.category for placed in chosen} == {category}
            assert category not in {placed.thing.category for placed in others}


def test_a_third_of_the_references_to_one_object_use_its_use_or_category() -> None:
    single = [reference for reference in REFERENCES if len(reference.ids) == 1]
    taught = [reference for reference in single if reference.expression != reference.plain]
    assert 0.2 < len(taught) / len(single) < 0.5
    buckets = [reference for reference in taught if "carry water" in reference.expression]
    assert any(reference.plain == "bucket" for reference in buckets), "things that only dialogue teaches are among them"


def test_plain_words_name_all_of_a_group() -> None:
    groups = [reference for reference in REFERENCES if reference.expression.startswith("all the ")]
    assert groups
    for reference in groups:
        named = {placed.name for placed in reference.scene.objects if placed.id in reference.ids}
        assert all(name in reference.plain or THINGS[name].plural in reference.plain for name in named)


def test_use_and_category_are_used_if_they_mean_one_object() -> None:
    bus, key, bucket = Placed(1, "bus", 0.3, 0.9, 6), Placed(2, "key", 0.7, 0.9, 8), Placed(3, "bucket", 0.5, 0.7, 8)
    scene = Scene("a sandy beach", 0, (bus, key, bucket))
    assert referring.taught_expressions(scene, bus) == [
        "the object that can be used to take many passengers to work",
        "the vehicle",
    ]
    assert referring.taught_expressions(scene, key) == ["the object that can be used to open a lock"], "two tools"
    two = scene.plus(Placed(4, "bus", 0.7, 0.7, 6))
    assert referring.taught_expressions(two, bus) == []
