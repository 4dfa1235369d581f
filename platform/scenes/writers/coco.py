"""COCO's format: names of picture files, ids of classes, and instances.json with an outline of every object."""

import json
import re
from pathlib import Path
from typing import Any

from fireedit.platform import images
from fireedit.platform.scenes.backgrounds import BACKGROUNDS
from fireedit.platform.scenes.objects import THINGS
from fireedit.platform.scenes.render import Rendering, box_of
from fireedit.platform.scenes.scene import Placed, Scene
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

    def add(self, number: int, scene: Scene, picture: Rendering) -> None:
        size = picture.image.shape[0]
        (self.folder / "train2014" / file_name(number)).write_bytes(images.encode_jpeg(picture.image))
        self.images.append({"id": number, "file_name": file_name(number), "height": size, "width": size, "license": 1})
        self.annotations += [_annotation(number, placed, picture) for placed in scene.objects]

    def close(self) -> None:
        categories = [
            {"id": number, "name": name, "supercategory": THINGS[name].category} for name, number in THING_IDS.items()
        ]
        content = {"info": {}, "licenses": [], "images": self.images, "annotations": self.annotations}
        (self.folder / "instances.json").write_text(json.dumps(content | {"categories": categories}))


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


def _annotation(number: int, placed: Placed, picture: Rendering) -> dict[str, Any]:
    mask = picture.masks[placed.id]
    left, top, right, bottom = box_of(mask)
    return {
        "id": annotation_id(number, placed.id),
        "image_id": number,
        "category_id": THING_IDS[placed.name],
        "segmentation": polygons(mask),
        "area": float(mask.sum()),
        "bbox": [float(value) for value in (left, top, right - left, bottom - top)],
        "iscrowd": 0,
    }
