"""ReasonEdit from scenes: one JSON object of edits that need reasoning, and the folders of its benchmark."""

import json
import random
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from fireedit.platform import images
from fireedit.platform.scenes import families
from fireedit.platform.scenes.edits import Edit
from fireedit.platform.scenes.render import difference, draw_scene
from fireedit.platform.scenes.understanding import HARD
from fireedit.platform.scenes.world import World

FOLDERS = {
    "1-Left-Right": ("left_right", "Left_Right_text.txt"),
    "2-Relative-Size": ("relative_size", "Size_text.txt"),
    "3-Mirror": ("mirror", "Mirror_text.txt"),
    "4-Color": ("color", "Color_text.txt"),
    "5-Multiple-Objects": ("multiple", "MultipleObjects_text.txt"),
    "6-Reasoning": ("reasoning", "Reason_test.txt"),
}
"""Folders of the benchmark, each with its family of edits and the file of its instructions."""


def write(folder: Path, seeds: Iterable[int], size: int, world: World) -> None:
    """Write one edit of a hard family per seed, plain instruction first; paths are relative to the folder."""
    (folder / "images").mkdir(parents=True)
    records = {}
    for index, seed in enumerate(seeds):
        edit, paths = hard_edit(world, seed), {}
        for name, scene in (("origin", edit.source), ("target", edit.target)):
            paths[f"{name}_img_path"] = f"images/{index:04d}_{name}.png"
            drawn = images.encode_png(draw_scene(scene, size).image)
            (folder / paths[f"{name}_img_path"]).write_bytes(drawn)
        records[f"{index:04d}"] = {**paths, "instruction": list(dict.fromkeys((edit.plain, edit.instruction)))}
    (folder / "SyntheticData_info_new.json").write_text(json.dumps(records))


def write_benchmark(folder: Path, seeds: Iterable[int], size: int, world: World) -> None:
    """Write one picture per seed, round-robin into the six folders, with its mask and its line of the folder's text.

    The benchmark has no targets; they can be drawn again from the seed and the folder's family.
    """
    lines: dict[str, list[str]] = {name: [] for name in FOLDERS}
    for index, seed in enumerate(seeds):
        name = list(FOLDERS)[index % len(FOLDERS)]
        edit = families.make_edit(world, seed, FOLDERS[name][0])
        lines[name].append(f"{edit.instruction} CLIP: {edit.local_caption}")
        source, target = (draw_scene(scene, size).image for scene in (edit.source, edit.target))
        mask = np.where(difference(source, target), 255, 0).astype(np.uint8)
        picture = folder / name / f"{len(lines[name]):05d}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(images.encode_png(source))
        picture.with_name(f"{picture.stem}_mask.jpg").write_bytes(images.encode_jpeg(mask))
    for name, text in lines.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / FOLDERS[name][1]).write_text("".join(f"{line}\n" for line in text))


def hard_edit(world: World, seed: int) -> Edit:
    """Draw the edit of a seed, of a family that needs reasoning."""
    hard = [family for family in HARD if family in families.families_of(world)]
    return families.make_edit(world, seed, family=random.Random(seed).choice(hard))
