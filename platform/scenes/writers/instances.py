"""Pictures and outlines as COCO train2014: `train2014/COCO_train2014_*.jpg` and `instances.json`."""

import json
from pathlib import Path
from typing import Any

from fireedit.platform import images
from fireedit.platform.scenes.objects import THINGS
from fireedit.platform.scenes.render import Picture, box_of
from fireedit.platform.scenes.scene import Placed, Scene
from fireedit.platform.scenes.writers import coco
from fireedit.platform.scenes.writers.polygons import polygons

OBJECTS_PER_PICTURE = 100
"""Ids of a picture's objects are its own times this, so that they are unique."""


class InstancesWriter:
    """Takes pictures one by one; `close` writes the file that lists them."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        (folder / "train2014").mkdir(parents=True)

    def add(self, number: int, scene: Scene, picture: Picture) -> None:
        size = picture.image.shape[0]
        (self.folder / "train2014" / file_name(number)).write_bytes(images.encode_jpeg(picture.image))
        self.images.append({"id": number, "file_name": file_name(number), "height": size, "width": size, "license": 1})
        self.annotations += [_annotation(number, placed, picture) for placed in scene.objects]

    def close(self) -> None:
        categories = [
            {"id": number, "name": name, "supercategory": THINGS[name].category}
            for name, number in coco.THING_IDS.items()
        ]
        content = {"info": {}, "licenses": [], "images": self.images, "annotations": self.annotations}
        (self.folder / "instances.json").write_text(json.dumps(content | {"categories": categories}))


def file_name(number: int) -> str:
    return f"COCO_train2014_{coco.picture_name(number)}.jpg"


def annotation_id(picture: int, placed_id: int) -> int:
    assert placed_id < OBJECTS_PER_PICTURE, placed_id
    return picture * OBJECTS_PER_PICTURE + placed_id


def _annotation(number: int, placed: Placed, picture: Picture) -> dict[str, Any]:
    mask = picture.masks[placed.id]
    left, top, right, bottom = box_of(mask)
    return {
        "id": annotation_id(number, placed.id),
        "image_id": number,
        "category_id": coco.THING_IDS[placed.name],
        "segmentation": polygons(mask),
        "area": float(mask.sum()),
        "bbox": [float(value) for value in (left, top, right - left, bottom - top)],
        "iscrowd": 0,
    }
