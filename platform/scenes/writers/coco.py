"""COCO's format: names of picture files, ids of classes, and instances.json with an outline of every object."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fireedit.platform import images
from fireedit.platform.scenes import families
from fireedit.platform.scenes.backgrounds import BACKGROUNDS
from fireedit.platform.scenes.objects import THINGS
from fireedit.platform.scenes.render import Rendering, box_of, draw_scene
from fireedit.platform.scenes.scene import Scene
from fireedit.platform.scenes.world import World
from fireedit.platform.scenes.writers.polygons import polygons

FIRST_STUFF = 92
"""COCO numbers things from 1 to 91 and stuff from 92 on."""
OBJECTS_PER_PICTURE = 100
"""Factor of a picture's id in the ids of its objects, which makes these unique."""

assert len(THINGS) < FIRST_STUFF, f"{len(THINGS)} things; COCO's numbers have room for {FIRST_STUFF - 1}"
THING_IDS = {name: number for number, name in enumerate(THINGS, start=1)}
STUFF_IDS = {name: number for number, name in enumerate(BACKGROUNDS, start=FIRST_STUFF)}


class InstancesWriter:
    """Writes pictures to `train2014/` one by one; `close` writes `instances.json`, which lists them."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        (folder / "train2014").mkdir(parents=True)

    def add(self, number: int, scene: Scene, size: int) -> None:
        picture = draw_scene(scene, size)
        (self.folder / "train2014" / file_name(number)).write_bytes(images.encode_jpeg(picture.image))
        self.images.append({"id": number, "file_name": file_name(number), "height": size, "width": size, "license": 1})
        for placed in scene.objects:
            mask = picture.masks[placed.id]
            values = annotation(number, THING_IDS[placed.name], mask, polygons(mask))
            self.annotations.append({"id": annotation_id(number, placed.id)} | values)

    def close(self) -> None:
        categories = [
            {"id": number, "name": name, "supercategory": THINGS[name].category} for name, number in THING_IDS.items()
        ]
        content = {"info": {}, "licenses": [], "images": self.images, "annotations": self.annotations}
        (self.folder / "instances.json").write_text(json.dumps(content | {"categories": categories}))


def write_pictures(
    folder: Path, seeds: Iterable[int], size: int, world: World
) -> Iterator[tuple[int, Scene, Rendering]]:
    """Write the scene before the edit of each seed as `NAME.jpg`; yield the seed, the scene and its rendering."""
    folder.mkdir(parents=True)
    for seed in seeds:
        scene = families.make_edit(world, seed).source
        picture = draw_scene(scene, size)
        (folder / f"{picture_name(seed)}.jpg").write_bytes(images.encode_jpeg(picture.image))
        yield seed, scene, picture


def annotation(image: int, category: int, mask: np.ndarray, segmentation: Any) -> dict[str, Any]:
    """Make the annotation of a mask; the caller adds its id."""
    left, top, right, bottom = box_of(mask)
    return {
        "image_id": image,
        "category_id": category,
        "segmentation": segmentation,
        "area": float(mask.sum()),
        "bbox": [float(value) for value in (left, top, right - left, bottom - top)],
        "iscrowd": 0,
    }


def picture_name(index: int) -> str:
    """Return the name, without suffix, of picture number `index`: twelve digits."""
    return f"{index:012d}"


def file_name(number: int) -> str:
    return f"COCO_train2014_{picture_name(number)}.jpg"


def annotation_id(picture: int, placed_id: int) -> int:
    assert placed_id < OBJECTS_PER_PICTURE, placed_id
    return picture * OBJECTS_PER_PICTURE + placed_id


def class_names() -> dict[int, str]:
    """Return class names by id; a background has no article."""
    stuff = {number: re.sub("^(a|an|the) ", "", name) for name, number in STUFF_IDS.items()}
    return {number: name for name, number in THING_IDS.items()} | stuff
