from fireedit.platform.data.scenes.world import HELD_OUT_SEEDS, TRAIN, TRAIN_SEEDS, UNSEEN


def test_training_and_testing_never_share_a_scene() -> None:
    assert TRAIN_SEEDS.stop <= HELD_OUT_SEEDS.start
    assert not set(TRAIN.things) & set(UNSEEN.things)
    assert not set(TRAIN.backgrounds) & set(UNSEEN.backgrounds)


def test_the_training_world_is_as_big_as_planned() -> None:
    assert (len(TRAIN.things), len(TRAIN.colors)) == (32, 8)
    assert len(TRAIN.backgrounds) >= 12
