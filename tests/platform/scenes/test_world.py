import itertools
from collections import Counter

import pytest

from fireedit.platform.scenes.backgrounds import BACKGROUNDS, Photo
from fireedit.platform.scenes.objects import THINGS
from fireedit.platform.scenes.world import HELD_OUT_PAIRS, TRAIN, WORLDS


def test_no_seed_belongs_to_two_worlds() -> None:
    for first, second in itertools.combinations(WORLDS.values(), 2):
        assert first.seeds.stop <= second.seeds.start, f"{first.name} and {second.name}"
    assert all(name == world.name for name, world in WORLDS.items())


def test_the_training_world_is_as_big_as_planned() -> None:
    assert (len(TRAIN.things), len(TRAIN.colors), len(TRAIN.backgrounds)) == (20, 6, 8)
    assert all(world.windows == 1 and world.grid == 16 for world in WORLDS.values())


def test_each_world_holds_out_what_its_name_says() -> None:
    assert not set(WORLDS["unseen_objects"].things) & set(TRAIN.things)
    assert not set(WORLDS["photos"].backgrounds) & set(TRAIN.backgrounds)
    assert all(isinstance(BACKGROUNDS[name], Photo) for name in WORLDS["photos"].backgrounds)
    assert len(WORLDS["photos"].backgrounds) >= 6
    assert WORLDS["unseen_artwork"].artwork != TRAIN.artwork
    assert WORLDS["unseen_pairs"].only == TRAIN.barred and not WORLDS["unseen_pairs"].barred
    for name in ("unseen_seeds", "unseen_pairs", "unseen_artwork", "photos", "knowledge"):
        assert WORLDS[name].things == TRAIN.things, "one thing changes at a time"


def test_held_out_pairs_are_a_tenth_and_leave_every_thing_and_operation_well_trained() -> None:
    operations = Counter(operation for operation, _ in HELD_OUT_PAIRS)
    assert max(Counter(thing for _, thing in HELD_OUT_PAIRS).values()) == 1
    assert set(operations) == {"add", "remove", "replace", "recolor", "move", "resize"}
    paintable = sum(bool(THINGS[name].paint) for name in TRAIN.things)
    possible = 5 * len(TRAIN.things) + paintable
    assert 0.08 < len(HELD_OUT_PAIRS) / possible < 0.12
    assert all(name in TRAIN.things for _, name in HELD_OUT_PAIRS)
    assert all(THINGS[name].paint for operation, name in HELD_OUT_PAIRS if operation == "recolor")


def test_a_seed_of_another_world_is_refused() -> None:
    TRAIN.require(999_999_999)
    with pytest.raises(ValueError, match="1000000000.*'train'.*0 to 999999999"):
        TRAIN.require(1_000_000_000)


def test_an_edit_is_allowed_without_barred_pairs_and_with_a_required_one() -> None:
    barred, fine = HELD_OUT_PAIRS[0], ("add", "dog")
    assert TRAIN.allows({fine}) and TRAIN.allows(set()) and not TRAIN.allows({fine, barred})
    pairs = WORLDS["unseen_pairs"]
    assert pairs.allows({fine, barred}) and not pairs.allows({fine}) and not pairs.allows(set())
