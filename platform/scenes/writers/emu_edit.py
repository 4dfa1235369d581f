"""Scenes as Emu Edit's test set: parquet files of two splits, without targets or with them as a model's results."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fireedit.platform import images
from fireedit.platform.scenes import families, language
from fireedit.platform.scenes.edits import Edit
from fireedit.platform.scenes.render import Renderer
from fireedit.platform.scenes.world import World
from fireedit.platform.scenes.writers.hub import Column, write_parquet

SMALL_EVERY = 3
"""One seed in so many is of the smaller split."""
TASKS = {
    "add": "add",
    "remove": "remove",
    "replace": "local",
    "move": "local",
    "resize": "local",
    "recolor": "texture",
    "background": "background",
    "style": "style",
}
"""Emu Edit's name of what an edit does."""
GLOBAL_EFFECTS = ("night", "blur")
"""What our styles do to a picture that stays a photo, which Emu Edit calls a global edit."""
COLUMNS: dict[str, Column] = {
    "instruction": "string",
    "image": "image",
    "task": "string",
    "split": "string",
    "idx": "int64",
    "hash": "string",
    "input_caption": "string",
    "output_caption": "string",
}
GENERATIONS: dict[str, Column] = {**COLUMNS, "edited_image": "image", "model": "string"}


def write(folder: Path, seeds: Iterable[int], size: int, world: World, *, generations: bool = False) -> None:
    """One edit of any family per seed.

    Args:
        generations: write the set of results, those of a model called "oracle" that hits the exact target. What the
            other set calls `test` is called `validation` in it, and the reverse, as in the two published ones.
    """
    later: list[int] = []
    large, small = ("validation", "test") if generations else ("test", "validation")
    columns = GENERATIONS if generations else COLUMNS
    write_parquet(folder / "data", large, columns, _rows(_putting_by(seeds, later), size, world, large))
    write_parquet(folder / "data", small, columns, _rows(later, size, world, small))


def task_of(edit: Edit) -> str:
    return "global" if edit.operation == "style" and edit.target.effect in GLOBAL_EFFECTS else TASKS[edit.operation]


def _putting_by(seeds: Iterable[int], later: list[int]) -> Iterator[int]:
    """The seeds of the larger split; those of the other are kept for later."""
    for seed in seeds:
        if seed % SMALL_EVERY:
            yield seed
        else:
            later.append(seed)


def _rows(seeds: Iterable[int], size: int, world: World, split: str) -> Iterator[dict[str, Any]]:
    """Rows of either set: what it has no column for is not written."""
    renderer = Renderer()
    for seed in seeds:
        edit = families.make_edit(world, seed)
        source, target = (images.encode_png(renderer.draw(scene, size).image) for scene in (edit.source, edit.target))
        yield {
            "instruction": edit.instruction,
            "image": source,
            "task": task_of(edit),
            "split": split,
            "idx": seed,
            "hash": hashlib.blake2b(source, digest_size=8).hexdigest(),
            "input_caption": language.caption(edit.source, seed),
            "output_caption": language.caption(edit.target, seed),
            "edited_image": target,
            "model": "oracle",
        }
