"""MagicBrush from scenes: sessions of consecutive edits, in parquet files or in folders."""

import dataclasses
import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fireedit.platform import images
from fireedit.platform.scenes import families, language
from fireedit.platform.scenes.edits import Edit
from fireedit.platform.scenes.render import box_of, difference, draw_scene
from fireedit.platform.scenes.world import World
from fireedit.platform.scenes.writers import coco
from fireedit.platform.scenes.writers.hub import write_parquet

MOST_TURNS = 3
MARGIN = 3
"""Pixels that the mask extends beyond the changed region on each side."""


def write(folder: Path, seeds: Iterable[int], size: int, world: World) -> None:
    """Write one session of one to three turns per seed."""
    write_parquet(folder / "data", "train", _rows(seeds, size, world), {"turn_index": "int32"})


def write_folder(folder: Path, seeds: Iterable[int], size: int, world: World, split: str = "test") -> None:
    """Write one session per seed into FOLDER/SPLIT, as in the zip of the test set."""
    sessions: dict[str, list[dict[str, str]]] = {}
    whole: dict[str, dict[str, str]] = {}
    parts: dict[str, dict[str, str]] = {}
    for seed, turns in _sessions(seeds, size, world):
        name = coco.picture_name(seed)
        sessions[name] = _write_session(folder / split / "images" / name, name, turns)
        edits = {record["output"]: turn.edit for record, turn in zip(sessions[name], turns, strict=True)}
        source = {f"{name}-input.png": language.caption(turns[0].edit.source, seed)}
        whole[name] = source | {file: language.caption(edit.target, seed) for file, edit in edits.items()}
        parts[name] = {file: edit.local_caption for file, edit in edits.items()}
    written = {
        "edit_turns.json": [turn for turns in sessions.values() for turn in turns],
        "edit_sessions.json": sessions,
        "global_descriptions.json": whole,
        "local_descriptions.json": parts,
    }
    for file, content in written.items():
        (folder / split / file).write_text(json.dumps(content))


def session(world: World, seed: int) -> list[Edit]:
    """Draw the turns of a seed; a scene without a follow-up ends them early."""
    rng = random.Random(seed)
    turns = [families.make_edit(world, seed)]
    for _ in range(rng.randrange(MOST_TURNS)):
        if turn := families.follow_up(world, turns[-1].target, rng):
            turns.append(turn)
    return turns


@dataclasses.dataclass(frozen=True)
class _Turn:
    edit: Edit
    source: np.ndarray
    target: np.ndarray

    @property
    def mask(self) -> np.ndarray:
        """[size, size] bool: box of the changed region with a MARGIN, like a mask erased by hand."""
        left, top, right, bottom = box_of(difference(self.source, self.target))
        mask = np.zeros(self.source.shape[:2], bool)
        mask[max(0, top - MARGIN) : bottom + MARGIN, max(0, left - MARGIN) : right + MARGIN] = True
        return mask


def _sessions(seeds: Iterable[int], size: int, world: World) -> Iterator[tuple[int, list[_Turn]]]:
    for seed in seeds:
        edits = session(world, seed)
        pictures = [draw_scene(scene, size).image for scene in (edits[0].source, *(edit.target for edit in edits))]
        yield seed, [_Turn(edit, *pictures[index : index + 2]) for index, edit in enumerate(edits)]


def _rows(seeds: Iterable[int], size: int, world: World) -> Iterator[dict[str, Any]]:
    """Yield one row per turn; the masked region is white."""
    for seed, turns in _sessions(seeds, size, world):
        for number, turn in enumerate(turns, start=1):
            yield {
                "img_id": coco.picture_name(seed),
                "turn_index": number,
                "source_img": images.encode_png(turn.source),
                "mask_img": images.encode_png(np.where(turn.mask[..., None], np.uint8(255), turn.source)),
                "instruction": turn.edit.instruction,
                "target_img": images.encode_png(turn.target),
            }


def _write_session(folder: Path, name: str, turns: list[_Turn]) -> list[dict[str, str]]:
    """Write the pictures of one session, masked regions transparent; returns its turns as the JSON files list them."""
    folder.mkdir(parents=True)
    listed, before = [], f"{name}-input.png"
    (folder / before).write_bytes(images.encode_png(turns[0].source))
    for number, turn in enumerate(turns, start=1):
        mask, after = f"{name}-mask{number}.png", f"{name}-output{number}.png"
        alpha = np.where(turn.mask, np.uint8(0), np.uint8(255))
        (folder / mask).write_bytes(images.encode_png(np.dstack([turn.source, alpha])))
        (folder / after).write_bytes(images.encode_png(turn.target))
        listed.append({"input": before, "mask": mask, "output": after, "instruction": turn.edit.instruction})
        before = after
    return listed
