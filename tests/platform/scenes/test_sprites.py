import numpy as np
import pytest

from fireedit.platform.scenes import sprites
from fireedit.platform.scenes.objects import COLORS, THINGS
from fireedit.platform.scenes.world import TRAIN

PAINTED = [thing.name for thing in THINGS.values() if thing.paint]


@pytest.mark.parametrize("name", THINGS)
def test_every_thing_has_artwork_in_the_font(name: str) -> None:
    pixels = np.asarray(sprites.emoji(name))
    solid = pixels[..., 3] == 255
    assert 0.1 < solid.mean() < 1 and 0.25 < sprites.aspect(name) < 3
    assert pixels[solid][:, :3].std() > 20, "an empty glyph is drawn as one flat box"


@pytest.mark.parametrize("name", PAINTED)
def test_painting_changes_the_main_part_and_no_outline(name: str) -> None:
    before = np.asarray(sprites.emoji(name)).astype(int)
    solid = before[..., 3] == 255
    for color, rgb in COLORS.items():
        if color == THINGS[name].paint:
            continue
        after = np.asarray(sprites.repainted(name, color)).astype(int)
        changed = (np.abs(after - before).max(-1) > 8) & solid
        assert changed.sum() > 0.1 * solid.sum()
        assert (after[..., 3] == before[..., 3]).all()
        assert not changed[(before[..., :3].max(-1) < 20) & solid].any()
        common = after[changed][np.abs(after[changed][:, :3] - rgb).max(-1) < 4]
        assert len(common) > 0.3 * changed.sum(), f"{color} is not the color of most of it"


def test_a_sprite_has_the_given_height_and_is_premultiplied() -> None:
    sprite = sprites.draw("car", "blue", 20)
    assert sprite.mask.shape == (20, round(20 * sprites.aspect("car")))
    assert (sprite.rgb <= sprite.alpha).all()
    np.testing.assert_array_equal(sprite.mirrored().mask[:, ::-1], sprite.mask)


@pytest.mark.usefixtures("noto")
def test_every_trained_thing_has_other_artwork_in_the_second_font() -> None:
    for name in TRAIN.things:
        pixels = np.asarray(sprites.emoji(name, "noto"))
        assert pixels[pixels[..., 3] == 255][:, :3].std() > 20 and 0.25 < sprites.aspect(name, "noto") < 3
        first, second = (sprites.draw(name, "", 48, artwork) for artwork in ("openmoji", "noto"))
        assert first.rgb.shape != second.rgb.shape or (first.rgb != second.rgb).mean() > 0.1


@pytest.mark.usefixtures("noto")
def test_the_second_artwork_is_repainted_where_it_has_one_plain_color() -> None:
    paintable = [name for name in TRAIN.things if sprites.paint(name, "noto")]
    assert len(paintable) >= 8
    for name in paintable:
        before = np.asarray(sprites.emoji(name, "noto")).astype(int)
        solid = before[..., 3] == 255
        for color in COLORS:
            after = np.asarray(sprites.repainted(name, color, "noto")).astype(int)
            assert (after[..., 3] == before[..., 3]).all()
            changed = (np.abs(after - before).max(-1) > 8) & solid
            assert changed.sum() > 0.2 * solid.sum() or color == sprites.paint(name, "noto")
