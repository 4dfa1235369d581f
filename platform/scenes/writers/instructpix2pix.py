"""InstructPix2Pix from scenes: the parquet files of its Hugging Face set, or its original folders and zips.

Pictures are JPEG of quality 100, as there.
"""

import dataclasses
import json
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fireedit.platform import images
from fireedit.platform.scenes import families, language
from fireedit.platform.scenes.render import draw_scene
from fireedit.platform.scenes.scene import Scene
from fireedit.platform.scenes.world import World
from fireedit.platform.scenes.writers.hub import write_parquet

PAIRS = 2
"""Pairs of pictures per prompt; all objects are flipped in the second one."""
FOLDERS_PER_ZIP = 10_434
"""Folders per zip; the 313,010 folders came in 30 zips."""
UNMEASURED = ("p2p_threshold", "cfg_scale", "clip_sim_0", "clip_sim_1", "clip_sim_dir", "clip_sim_image")
"""Keys of metadata.jsonl that scenes have no values for: null."""


def write(folder: Path, seeds: Iterable[int], size: int, world: World) -> None:
    """Write one edit of any family per seed, its pictures `size` pixels square."""
    write_parquet(folder / "data", "train", _rows(seeds, size, world))


def write_folders(folder: Path, seeds: Iterable[int], size: int, world: World) -> None:
    """Write one folder per seed, and seeds.json that lists them."""
    listed = list(seeds)
    for seed in listed:
        for name, data in _files(seed, size, world):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
    (folder / "seeds.json").write_text(json.dumps([_entry(seed) for seed in listed]))


def write_zips(
    folder: Path, seeds: Iterable[int], size: int, world: World, *, folders_per_zip: int = FOLDERS_PER_ZIP
) -> None:
    """Write the same folders in `shard-NN.zip`, with seeds.json beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    listed = list(seeds)
    for shard, start in enumerate(range(0, len(listed), folders_per_zip)):
        with zipfile.ZipFile(folder / f"shard-{shard:02d}.zip", "w") as archive:
            for seed in listed[start : start + folders_per_zip]:
                for name, data in _files(seed, size, world):
                    archive.writestr(zipfile.ZipInfo(name), data)
    (folder / "seeds.json").write_text(json.dumps([_entry(seed) for seed in listed]))


def _entry(seed: int) -> tuple[str, list[str]]:
    """Return a folder and the seeds of its pairs, as seeds.json lists them."""
    return f"{seed:07d}", [str(seed * PAIRS + pair) for pair in range(PAIRS)]


def _files(seed: int, size: int, world: World) -> Iterator[tuple[str, bytes]]:
    """Yield the files of a seed's folder; names are relative to the corpus's folder."""
    edit = families.training_edit(world, seed)
    name, pairs = _entry(seed)
    prompt = {
        "input": language.caption(edit.source, seed),
        "edit": edit.instruction,
        "output": language.caption(edit.target, seed),
        "url": f"https://example.invalid/{seed}.jpg",
    }
    yield f"{name}/prompt.json", json.dumps(prompt).encode()
    for number, pair in enumerate(pairs):
        for side, scene in enumerate((edit.source, edit.target)):
            yield f"{name}/{pair}_{side}.jpg", _picture(_flipped(scene, world) if number else scene, size)
    lines = [json.dumps({"seed": int(pair)} | dict.fromkeys(UNMEASURED)) + "\n" for pair in pairs]
    yield f"{name}/metadata.jsonl", "".join(lines).encode()


def _flipped(scene: Scene, world: World) -> Scene:
    """Flip all objects and shift the background's window: another scene of the same prompt."""
    objects = tuple(dataclasses.replace(placed, mirrored=not placed.mirrored) for placed in scene.objects)
    window = (scene.background_seed + 1) % world.windows
    return dataclasses.replace(scene, objects=objects, background_seed=window)


def _picture(scene: Scene, size: int) -> bytes:
    return images.encode_jpeg(draw_scene(scene, size).image, quality=100)


def _rows(seeds: Iterable[int], size: int, world: World) -> Iterator[dict[str, Any]]:
    for seed in seeds:
        edit = families.training_edit(world, seed)
        yield {
            "original_prompt": language.caption(edit.source, seed),
            "original_image": _picture(edit.source, size),
            "edit_prompt": edit.instruction,
            "edited_prompt": language.caption(edit.target, seed),
            "edited_image": _picture(edit.target, size),
        }
