import random

from fireedit.platform.scenes import dialogue, layout
from fireedit.platform.scenes.scene import Mirror, Placed, Scene
from fireedit.platform.scenes.world import TRAIN

SCENE = Scene("a sandy beach", 0, (Placed(1, "car", 0.2, 0.9, 8), Placed(2, "scissors", 0.8, 0.9, 8)))


def test_answers_are_true() -> None:
    turns = {turn for seed in range(40) for turn in dialogue.dialogue(TRAIN, SCENE, seed)}
    assert {
        ("What color is the car?", "The car is red."),
        ("How many pairs of scissors are there in the image?", "There is one pair of scissors."),
        ("Is there a car in the image?", "Yes, there is."),
        ("Which object in the image can be used to cut paper?", "The pair of scissors can be used to cut paper."),
        (
            "Is the car to the left or to the right of the pair of scissors?",
            "The car is to the left of the pair of scissors.",
        ),
        ("What can the pair of scissors be used for?", "The pair of scissors can be used to cut paper."),
        ("What kind of thing is the pair of scissors?", "The pair of scissors is a tool."),
        ("Which object in the image is a vehicle?", "The car is a vehicle."),
        ("What is in the background?", "The background shows a sandy beach."),
    } <= turns
    assert not [turn for turn in turns if turn[0].startswith("Is there a dog") and "Yes" in turn[1]]


def test_a_seed_repeats_its_dialogue_and_no_question_is_asked_twice() -> None:
    for seed in range(30):
        scene = layout.sample_scene(TRAIN, random.Random(seed))
        turns = dialogue.dialogue(TRAIN, scene, seed)
        assert turns == dialogue.dialogue(TRAIN, scene, seed)
        assert len({question for question, _ in turns}) == len(turns) >= 4


def test_twins_are_counted_and_their_color_is_not_asked() -> None:
    twins = Scene("a sandy beach", 0, (Placed(1, "bus", 0.2, 0.9, 8), Placed(2, "bus", 0.8, 0.9, 8)))
    turns = dict(dialogue.dialogue(TRAIN, twins, 0))
    assert turns["How many buses are there in the image?"] == "There are two buses."
    assert "What color is the bus?" not in turns


def test_reflections_are_described_and_not_counted() -> None:
    ducks = Placed(1, "duck", 0.7, 0.9, 8), Placed(2, "duck", 0.3, 0.7, 6, reflection=True)
    shown = Scene("a sandy beach", 0, (*ducks, Placed(3, "dog", 0.2, 0.95, 6)), mirror=Mirror(0.3, 0.8))
    turns = {turn for seed in range(40) for turn in dialogue.dialogue(TRAIN, shown, seed)}
    assert ("How many ducks are there in the image?", "There is one duck.") in turns
    assert ("Is the dog to the left or to the right of the duck?", "The dog is to the left of the duck.") in turns
    assert all(
        "a mirror with a duck in it" in answer for question, answer in turns if question == "Describe the image."
    )


def test_a_category_that_two_things_share_is_not_asked_for() -> None:
    both = Scene("a sandy beach", 0, (Placed(1, "car", 0.2, 0.9, 8), Placed(2, "bus", 0.8, 0.9, 6)))
    turns = {turn for seed in range(40) for turn in dialogue.dialogue(TRAIN, both, seed)}
    assert ("What kind of thing is the bus?", "The bus is a vehicle.") in turns
    assert not [question for question, _ in turns if question == "Which object in the image is a vehicle?"]
