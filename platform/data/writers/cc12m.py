"""Scenes as CC12M: `cc12m.tsv`, a url and a caption a line, no header."""

from collections.abc import Iterable
from pathlib import Path

from fireedit.platform.data.scenes import families, language
from fireedit.platform.data.scenes.world import World


def write(folder: Path, seeds: Iterable[int], size: int, world: World) -> None:
    """One caption per seed, of a scene before or after an edit; `size` is not needed, there are no pictures."""
    with (folder / "cc12m.tsv").open("w", encoding="utf-8") as file:
        for seed in seeds:
            edit = families.make_edit(world, seed)
            scene = edit.target if seed % 2 else edit.source
            file.write(f"https://example.invalid/{seed}.jpg\t{language.caption(scene, seed)}\n")
