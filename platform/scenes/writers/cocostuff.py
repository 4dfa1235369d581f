"""COCO-Stuff from scenes: pictures, and labels as PNG maps (class id minus 1) with labels.txt or as one JSON file."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from fireedit.platform import images
from fireedit.platform.scenes.render import MIRROR, Rendering
from fireedit.platform.scenes.scene import Scene
from fireedit.platform.scenes.world import World
from fireedit.platform.scenes.writers import coco

OTHER = 183
"""Class of all pixels that are not stuff, in the JSON form."""
UNLABELED = 255
"""Value of pixels without a class, in the maps: a mirror."""


def write(folder: Path, seeds: Iterable[int], size: int, world: World) -> None:
    """Write one picture and its map per seed, `size` pixels square."""
    maps = folder / "annotations" / "train2017"
    maps.mkdir(parents=True)
    (folder / "labels.txt").write_text(label_lines())
    for seed, scene, picture in coco.write_pictures(folder / "images" / "train2017", seeds, size, world):
        (maps / f"{coco.picture_name(seed)}.png").write_bytes(images.encode_png(label_map(scene, picture)))


def write_json(folder: Path, seeds: Iterable[int], size: int, world: World) -> None:
    """Write one picture per seed, `size` pixels square, and stuff_train2017.json with their backgrounds."""
    listed: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for seed, scene, picture in coco.write_pictures(folder / "images" / "train2017", seeds, size, world):
        listed.append({"id": seed, "file_name": f"{coco.picture_name(seed)}.jpg", "height": size, "width": size})
        objects = np.any([np.zeros((size, size), bool), *picture.masks.values()], axis=0)
        for category, mask in ((coco.STUFF_IDS[scene.background], ~objects), (OTHER, objects)):
            if mask.any():
                runs = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
                segmentation = {"counts": runs["counts"].decode(), "size": list(mask.shape)}
                values = coco.annotation(seed, category, mask, segmentation)
                annotations.append({"id": len(annotations) + 1} | values)
    (folder / "annotations").mkdir()
    content = {"info": {}, "licenses": [], "images": listed, "annotations": annotations, "categories": categories()}
    (folder / "annotations" / "stuff_train2017.json").write_text(json.dumps(content))


def label_lines() -> str:
    """List `id: name` from 0 on without a gap, as readers index it by line; unused numbers are unlabeled."""
    names = coco.class_names()
    return "\n".join(f"{number}: {names.get(number, 'unlabeled')}" for number in range(max(names) + 1))


def label_map(scene: Scene, picture: Rendering) -> np.ndarray:
    """Return [size, size] uint8 class ids minus 1 of the visible objects, reflections and background."""
    size = picture.image.shape[0]
    labels = np.full((size, size), coco.STUFF_IDS[scene.background] - 1, np.uint8)
    if scene.mirror is not None:
        labels[picture.masks[MIRROR]] = UNLABELED
    for placed in scene.objects:
        labels[picture.masks[placed.id]] = coco.THING_IDS[placed.name] - 1
    return labels


def categories() -> list[dict[str, Any]]:
    """List the classes of stuff, and the one of all other pixels."""
    names = {number: name for number, name in coco.class_names().items() if number >= coco.FIRST_STUFF}
    stuff = [{"supercategory": "background", "id": number, "name": name} for number, name in names.items()]
    return [*stuff, {"supercategory": "other", "id": OTHER, "name": "other"}]
