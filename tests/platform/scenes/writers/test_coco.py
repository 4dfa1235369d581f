from fireedit.platform.scenes.backgrounds import BACKGROUNDS
from fireedit.platform.scenes.objects import THINGS
from fireedit.platform.scenes.writers import coco


def test_every_class_has_its_own_number_within_cocos_range() -> None:
    names = coco.class_names()
    assert len(names) == len(THINGS) + len(BACKGROUNDS) == len(set(names.values()))
    assert min(names) == 1 and max(names) <= 182
    assert {"sandy beach", "astronaut", "moon", "gray gravel"} <= set(names.values()), "backgrounds lose their article"
