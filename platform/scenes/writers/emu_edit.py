"""Emu Edit's test set from scenes: parquet files of two splits, without targets or with a model's results."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fireedit.platform import images
from fireedit.platform.scenes import families, language
from fireedit.platform.scenes.edits import Edit
from fireedit.platform.scenes.render import draw_scene
from fireedit.platform.scenes.world import World
from fireedit.platform.scenes.writers.hub import Column, split_off, write_parquet

SMALL_EVERY = 3
"""Period, in seeds, of edits in the smaller split."""
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
"""Emu Edit's task by operation."""
GLOBAL_EFFECTS = ("night", "blur")
"""Effects after which a picture is still a photo; Emu Edit calls these global edits."""
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
    """Write one edit of any family per seed.

    Args:
        generations: write the set of results, of a model called "oracle" that returns the exact target. The names
            `test` and `validation` are swapped between the two sets, as published.
    """
    deferred: list[int] = []
    large, small = ("validation", "test") if generations else ("test", "validation")
    columns = GENERATIONS if generations else COLUMNS
    write_parquet(folder / "data", large, columns, _rows(split_off(seeds, SMALL_EVERY, deferred), size, world, large))
    write_parquet(folder / "data", small, columns, _rows(deferred, size, world, small))


def task_of(edit: Edit) -> str:
    return "global" if edit.operation == "style" and edit.target.effect in GLOBAL_EFFECTS else TASKS[edit.operation]


def _rows(seeds: Iterable[int], size: int, world: World, split: str) -> Iterator[dict[str, Any]]:
    """Yield rows with the values of both sets; those without a column are not written."""
    for seed in seeds:
        edit = families.make_edit(world, seed)
        source, target = (images.encode_png(draw_scene(scene, size).image) for scene in (edit.source, edit.target))
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
