"""Scenes as ReasonEdit: one JSON object of edits that must be understood, and their pictures."""

import json
import random
from collections.abc import Iterable
from pathlib import Path

from fireedit.platform import images
from fireedit.platform.data.scenes import families
from fireedit.platform.data.scenes.edits import Edit
from fireedit.platform.data.scenes.render import Renderer
from fireedit.platform.data.scenes.understanding import HARD
from fireedit.platform.data.scenes.world import World


def write(folder: Path, seeds: Iterable[int], size: int, world: World) -> None:
    """One edit of a hard family per seed; paths are relative to the folder."""
    (folder / "images").mkdir(parents=True)
    renderer, records = Renderer(), {}
    for index, seed in enumerate(seeds):
        edit, paths = hard_edit(world, seed), {}
        for name, scene in (("origin", edit.source), ("target", edit.target)):
            paths[f"{name}_img_path"] = f"images/{index:04d}_{name}.png"
            drawn = images.encode_png(renderer.draw(scene, size).image)
            (folder / paths[f"{name}_img_path"]).write_bytes(drawn)
        records[f"{index:04d}"] = {**paths, "instruction": [edit.instruction]}
    (folder / "SyntheticData_info_new.json").write_text(json.dumps(records))


def hard_edit(world: World, seed: int) -> Edit:
    """The edit of a seed, of a family that must be understood."""
    return families.make_edit(world, seed, family=random.Random(seed).choice(list(HARD)))
