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
from fireedit.platform.scenes.writers.hub import split_off, write_parquet

SMALL_EVERY = 3
"""Period, in seeds, of edits in the smaller split."""
TASKS = {"replace": "local", "move": "local", "resize": "local", "recolor": "texture"}
"""Emu Edit's task by operation; the others are called as the operation."""
GLOBAL_EFFECTS = ("night", "blur")
"""Effects after which a picture is still a photo; Emu Edit calls these global edits."""


def write(folder: Path, seeds: Iterable[int], size: int, world: World, *, generations: bool = False) -> None:
    """Write one edit of any family per seed.

    Args:
        generations: write the set of results, of a model called "oracle" that returns the exact target. The names
            `test` and `validation` are swapped between the two sets, as published.
    """
    deferred: list[int] = []
    large, small = ("validation", "test") if generations else ("test", "validation")
    for split, split_seeds in ((large, split_off(seeds, SMALL_EVERY, deferred)), (small, deferred)):
        write_parquet(folder / "data", split, _rows(split_seeds, size, world, split, generations))


def task_of(edit: Edit) -> str:
    is_global = edit.operation == "style" and edit.target.effect in GLOBAL_EFFECTS
    return "global" if is_global else TASKS.get(edit.operation, edit.operation)


def _rows(seeds: Iterable[int], size: int, world: World, split: str, generations: bool) -> Iterator[dict[str, Any]]:
    for seed in seeds:
        edit = families.make_edit(world, seed)
        source, target = (images.encode_png(draw_scene(scene, size).image) for scene in (edit.source, edit.target))
        row = {
            "instruction": edit.instruction,
            "image": source,
            "task": task_of(edit),
            "split": split,
            "idx": seed,
            "hash": hashlib.blake2b(source, digest_size=8).hexdigest(),
            "input_caption": language.caption(edit.source, seed),
            "output_caption": language.caption(edit.target, seed),
        }
        yield row | {"edited_image": target, "model": "oracle"} if generations else row
