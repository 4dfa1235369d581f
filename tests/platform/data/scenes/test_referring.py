from fireedit.platform.data.scenes import referring
from fireedit.platform.data.scenes.world import TRAIN

REFERENCES = [referring.make_reference(TRAIN, seed) for seed in range(300)]


def test_none_one_and_several_are_about_equally_many() -> None:
    counts = [min(len(reference.ids), 2) for reference in REFERENCES]
    assert all(70 < counts.count(number) < 130 for number in (0, 1, 2))


def test_what_nothing_fits_is_not_there() -> None:
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
            assert chosen[0].name in reference.expression or chosen[0].thing.category in reference.expression
        if reference.expression.startswith("all the "):
            category = reference.expression.removeprefix("all the ").removesuffix("s")
            others = [placed for placed in reference.scene.objects if placed not in chosen]
            assert {placed.thing.category for placed in chosen} == {category}
            assert category not in {placed.thing.category for placed in others}
