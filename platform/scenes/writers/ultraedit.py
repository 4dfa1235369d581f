"""UltraEdit from scenes: free-form parquet files, and region-based ones with the edited object and its mask."""

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from fireedit.platform import images
from fireedit.platform.scenes import families, language
from fireedit.platform.scenes.edits import Edit
from fireedit.platform.scenes.render import difference, draw_scene
from fireedit.platform.scenes.world import World
from fireedit.platform.scenes.writers.hub import Column, split_off, write_parquet

REGION_EVERY = 4
"""Period, in seeds, of region-based edits."""
REGION_FAMILIES = ("add", "remove", "replace", "recolor")
SCORES = ("clip_sim_source", "clip_sim_target", "clip_sim_dir", "clip_sim_image", "dinov2_sim", "ssim")
"""Columns of scores, which are not computed for scenes: null."""


def write(folder: Path, seeds: Iterable[int], size: int, world: World) -> None:
    """Write one edit per seed, free-form ones first."""
    regional: list[int] = []
    free = (_row(families.training_edit(world, seed), seed, size) for seed in split_off(seeds, REGION_EVERY, regional))
    scores: dict[str, Column] = dict.fromkeys(SCORES, "float64")
    write_parquet(folder / "data", "FreeForm_0", free, scores)
    write_parquet(folder / "data", "RegionBase", (_region_row(world, seed, size) for seed in regional), scores)


def region_edit(world: World, seed: int) -> Edit:
    """Draw the region-based edit of a seed."""
    return families.make_edit(world, seed, family=random.Random(seed).choice(REGION_FAMILIES))


def _region_row(world: World, seed: int, size: int) -> dict[str, Any]:
    edit = region_edit(world, seed)
    before, after = draw_scene(edit.source, size).image, draw_scene(edit.target, size).image
    mask = np.where(difference(before, after), 255, 0).astype(np.uint8)
    edited = next(placed for placed in (*edit.source.objects, *edit.target.objects) if placed.id in edit.edited)
    return _row(edit, seed, size) | {"edit_object": edited.noun, "mask_image": images.encode_png(mask)}


def _row(edit: Edit, seed: int, size: int) -> dict[str, Any]:
    return {
        **dict.fromkeys(SCORES),
        "source_caption": language.caption(edit.source, seed),
        "target_caption": language.caption(edit.target, seed),
        "idx": seed,
        "edit_prompt": edit.instruction,
        "edit_object": None,
        "source_image": images.encode_jpeg(draw_scene(edit.source, size).image),
        "edited_image": images.encode_jpeg(draw_scene(edit.target, size).image),
        "mask_image": None,
    }
