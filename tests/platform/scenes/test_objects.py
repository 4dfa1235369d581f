from collections import Counter

from fireedit.platform.scenes.objects import COLORS, THINGS


def test_names_artwork_and_uses_are_unique() -> None:
    codes = Counter(thing.code for thing in THINGS.values())
    uses = Counter(thing.use for thing in THINGS.values() if thing.use)
    assert max(codes.values()) == 1 and max(uses.values()) == 1
    assert {thing.paint for thing in THINGS.values()} <= {"", *COLORS}


def test_both_splits_have_enough_things_for_every_edit() -> None:
    for split in ("train", "unseen"):
        things = [thing for thing in THINGS.values() if thing.split == split]
        assert len(things) >= 20
        assert sum(thing.flies for thing in things) >= 3, "a flying thing is replaced by another flying thing"
        assert sum(bool(thing.paint) for thing in things) >= 8
        assert sum(bool(thing.use) for thing in things) >= 10


def test_a_third_of_the_trained_things_are_explained_in_dialogues_only() -> None:
    dialogue_only = [thing for thing in THINGS.values() if thing.taught == "dialogue"]
    assert len(dialogue_only) == 7 and all(thing.split == "train" and thing.use for thing in dialogue_only)
    assert sum(bool(thing.use) for thing in THINGS.values() if thing.split == "train") >= 2 * len(dialogue_only)
