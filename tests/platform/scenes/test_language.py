import pytest

from fireedit.platform.scenes import language
from fireedit.platform.scenes.objects import THINGS
from fireedit.platform.scenes.scene import Mirror, Placed, Scene


def scene(*objects: Placed, effect: str = "") -> Scene:
    return Scene("a sandy beach", 0, objects, effect)


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [("dog", "a dog"), ("elephant", "an elephant"), ("umbrella", "an umbrella"), ("UFO", "a UFO")],
)
def test_articles(phrase: str, expected: str) -> None:
    assert language.a(phrase) == expected


def test_counting_words() -> None:
    assert language.singular(THINGS["scissors"]) == "pair of scissors"
    assert language.plural(THINGS["scissors"]) == "pairs of scissors"
    assert language.plural(THINGS["bus"], "red") == "red buses"
    assert language.joined(["a", "b", "c"]) == "a, b and c"


def test_captions_name_all_objects_background_and_effect() -> None:
    shown = scene(
        Placed(1, "dog", 0.2, 0.9, 8),
        Placed(2, "car", 0.5, 0.9, 8, "blue"),
        Placed(3, "dog", 0.8, 0.9, 8),
        effect="night",
    )
    text = "Two dogs and a blue car with a sandy beach in the background, at night."
    assert language.caption(shown) == text
    assert len({language.caption(shown, form) for form in range(8)}) == 4
    assert language.caption(scene()) == "Nothing with a sandy beach in the background."


def test_a_single_object_is_called_by_name_color_and_category() -> None:
    car = Placed(1, "car", 0.5, 0.9, 8, "blue")
    assert language.expressions(scene(car), car) == ["the car", "the blue car", "the vehicle"]


def test_the_category_of_a_thing_that_only_dialogue_teaches_is_not_used() -> None:
    bus, car = Placed(1, "bus", 0.5, 0.9, 8), Placed(2, "car", 0.5, 0.9, 8)
    assert language.expressions(scene(bus), bus) == ["the bus"]
    assert language.expressions(scene(bus, car), car) == ["the car"], "there are two vehicles"


def test_a_category_is_replaced_by_the_name() -> None:
    assert language.named("the reflection of the animal", THINGS["cat"]) == "the reflection of the cat"
    assert language.named("the cat on the left", THINGS["cat"]) == "the cat on the left"
    assert [language.kind(THINGS[name]) for name in ("dog", "chair")] == ["animal", "piece of furniture"]


def test_one_of_two_is_identified_by_side_size_or_color() -> None:
    left, right = Placed(1, "dog", 0.2, 0.9, 8), Placed(2, "dog", 0.8, 0.9, 12)
    assert language.expressions(scene(left, right), left) == ["the dog on the left", "the smaller dog"]
    assert language.expressions(scene(left, right), right) == ["the dog on the right", "the bigger dog"]


def test_the_artworks_own_color_counts_when_colors_are_compared() -> None:
    painted, plain = Placed(1, "car", 0.48, 0.9, 8, "red"), Placed(2, "car", 0.5, 0.6, 8)
    assert language.expressions(scene(painted, plain), painted) == []


def test_three_of_a_kind_have_outermost_ones() -> None:
    three = [Placed(n, "dog", 0.2 + 0.3 * n, 0.9, 8) for n in range(3)]
    assert [language.expressions(scene(*three), dog) for dog in three] == [
        ["the leftmost dog"],
        [],
        ["the rightmost dog"],
    ]


def mirrored(*objects: Placed) -> Scene:
    return Scene("a sandy beach", 0, objects, mirror=Mirror(0.3, 0.8))


CAT, CAT_SEEN = Placed(1, "cat", 0.7, 0.9, 8), Placed(2, "cat", 0.3, 0.7, 6, reflection=True)


def test_a_thing_and_its_reflection_always_have_different_expressions() -> None:
    shown = mirrored(CAT, CAT_SEEN)
    assert language.expressions(shown, CAT) == ["the cat outside the mirror", "the animal outside the mirror"]
    assert language.expressions(shown, CAT_SEEN) == [
        "the cat in the mirror",
        "the reflection of the cat",
        "the animal in the mirror",
        "the reflection of the animal",
    ]


def test_a_reflection_of_another_category_makes_nothing_ambiguous() -> None:
    car, dog = Placed(3, "car", 0.5, 0.9, 6), Placed(4, "dog", 0.9, 0.9, 6)
    assert language.expressions(mirrored(CAT, CAT_SEEN, car), car) == ["the car", "the vehicle"]
    both = mirrored(CAT, CAT_SEEN, dog)
    assert language.expressions(both, dog) == ["the dog outside the mirror"]
    assert language.expressions(mirrored(CAT), CAT) == ["the cat", "the animal"], "the mirror is empty"


def test_captions_count_things_and_not_their_reflections() -> None:
    behind = "with a sandy beach in the background."
    assert language.caption(mirrored(CAT, CAT_SEEN)) == f"A cat and a mirror with a cat in it {behind}"
    assert language.caption(mirrored(CAT)) == f"A cat and an empty mirror {behind}"
