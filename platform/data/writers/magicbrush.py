"""Scenes as MagicBrush: parquet files of sessions, in which an edit goes on from the one before."""

import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fireedit.platform import images
from fireedit.platform.data.scenes import families
from fireedit.platform.data.scenes.edits import PLAIN, Edit
from fireedit.platform.data.scenes.render import Renderer, box_of
from fireedit.platform.data.scenes.world import World
from fireedit.platform.data.writers import coco
from fireedit.platform.data.writers.parquet import Column, write_parquet

MOST_TURNS = 3
MARGIN = 3
"""Pixels by which the masked region is wider than what changes."""
COLUMNS: dict[str, Column] = {
    "img_id": "string",
    "turn_index": "int32",
    "source_img": "image",
    "mask_img": "image",
    "instruction": "string",
    "target_img": "image",
}


def write(folder: Path, seeds: Iterable[int], size: int, world: World) -> None:
    """One session of one to three turns per seed."""
    write_parquet(folder / "data", "train", COLUMNS, _rows(seeds, size, world))


def session(world: World, seed: int) -> list[Edit]:
    """The turns of a seed; the last try to go on may fail, so some are shorter than drawn."""
    rng = random.Random(seed)
    turns = [families.make_edit(world, seed)]
    for _ in range(rng.randrange(MOST_TURNS)):
        scene = turns[-1].target
        if scene.objects and (turn := PLAIN[rng.choice(list(PLAIN))](world, scene, rng)):
            turns.append(turn)
    return turns


def _rows(seeds: Iterable[int], size: int, world: World) -> Iterator[dict[str, Any]]:
    renderer = Renderer()
    for seed in seeds:
        turns = session(world, seed)
        pictures = [renderer.draw(scene, size).image for scene in (turns[0].source, *(turn.target for turn in turns))]
        for index, turn in enumerate(turns):
            source, target = pictures[index : index + 2]
            yield {
                "img_id": coco.picture_name(seed),
                "turn_index": index + 1,
                "source_img": images.encode_png(source),
                "mask_img": images.encode_png(_masked(source, target)),
                "instruction": turn.instruction,
                "target_img": images.encode_png(target),
            }


def _masked(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The source with the region that changes in white."""
    left, top, right, bottom = box_of((source != target).any(axis=-1))
    masked = source.copy()
    masked[max(0, top - MARGIN) : bottom + MARGIN, max(0, left - MARGIN) : right + MARGIN] = 255
    return masked
