from fireedit.platform.data.scenes import families
from fireedit.platform.data.scenes.world import HELD_OUT_SEEDS, TRAIN, UNSEEN


def test_an_edit_is_its_seed() -> None:
    for family in families.FAMILIES:
        assert families.make_edit(TRAIN, 9, family) == families.make_edit(TRAIN, 9, family)
        assert families.make_edit(TRAIN, 9, family).family == family


def test_all_thirteen_families_are_drawn() -> None:
    assert len(families.FAMILIES) == 13
    assert {families.make_edit(TRAIN, seed).family for seed in range(300)} == set(families.FAMILIES)


def test_instructions_are_many_and_clean() -> None:
    texts = [families.make_edit(TRAIN, seed).instruction for seed in range(1000)]
    assert len(set(texts)) > 700
    for text in texts:
        assert text[0].isupper() and text[-1] in ".?" and "{" not in text and "  " not in text and "None" not in text


def test_the_unseen_world_edits_unseen_objects_only() -> None:
    for seed in HELD_OUT_SEEDS[:100]:
        edit = families.make_edit(UNSEEN, seed)
        assert edit.source.names | edit.target.names <= set(UNSEEN.things)
        assert {edit.source.background, edit.target.background} <= set(UNSEEN.backgrounds)
