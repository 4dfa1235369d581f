import numpy as np
import pytest

from fireedit.platform.scenes import backgrounds


@pytest.mark.parametrize("name", backgrounds.BACKGROUNDS)
def test_a_background_is_the_same_window_at_every_size(name: str) -> None:
    small, big = backgrounds.cut(name, 7, 16), backgrounds.cut(name, 7, 128)
    assert small.shape == (16, 16, 3) and small.dtype == np.uint8
    averaged = big.reshape(16, 8, 16, 8, 3).mean((1, 3))
    assert np.abs(averaged - small).mean() < 6
    assert not big.flags.writeable and (backgrounds.cut(name, 8, 128) != big).any(), "another seed, another window"


def test_backgrounds_differ_from_each_other() -> None:
    names = list(backgrounds.BACKGROUNDS)
    views = np.stack([[backgrounds.cut(name, seed, 16) for seed in range(4)] for name in names]).astype(float)
    for index, name in enumerate(names):
        others = np.delete(views, index, axis=0)
        assert np.abs(others - views[index].mean(0)).mean((1, 2, 3, 4)).min() > 8, name
