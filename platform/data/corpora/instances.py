"""COCO's files of instances: pictures by number, and the outline of every object as a mask.

Source: cocodataset.org, format of object detection; masks are what pycocotools draws.
"""

import dataclasses
import functools
from collections import Counter
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from fireedit.platform.data.corpora import rows

FILE = "instances.json"
FARTHEST = 2
"""How far outside a corner may lie, in sides of the picture; more is damage, and dear to draw."""


@dataclasses.dataclass(frozen=True)
class Instances:
    """The file's records by their ids."""

    images: dict[int, dict[str, Any]]
    annotations: dict[int, dict[str, Any]]
    categories: dict[int, dict[str, Any]]

    @functools.cached_property
    def shown(self) -> Counter[tuple[int, int]]:
        """How many objects, a crowd counting as one, each picture shows of each category, by the ids of both."""
        return Counter(pair for one in self.annotations.values() if (pair := _picture_and_category(one)))

    def name_of(self, annotation: dict[str, Any]) -> str:
        """The name of an object's category if its picture shows no other of it; else empty."""
        pair = _picture_and_category(annotation)
        if pair is None or self.shown[pair] > 1:
            return ""
        return str(self.categories.get(pair[1], {}).get("name", ""))


def _picture_and_category(annotation: dict[str, Any]) -> tuple[int, int] | None:
    picture, category = annotation.get("image_id"), annotation.get("category_id")
    return (picture, category) if isinstance(picture, int) and isinstance(category, int) else None


def read(root: str) -> Instances:
    """ROOT/instances.json, read at once."""
    return read_file(rows.require(root, FILE, "the objects of COCO train2014"))


def read_file(path: str) -> Instances:
    """A file of COCO's format, read at once.

    Raises:
        CorpusError: it is not COCO's, or an id stands in it twice.
    """
    found = rows.read_json(path)
    return Instances(*(_by_id(path, found, name) for name in ("images", "annotations", "categories")))


def _by_id(path: str, found: Any, name: str) -> dict[int, dict[str, Any]]:
    records = found.get(name) if isinstance(found, dict) else None
    if not isinstance(records, list) or not all(
        isinstance(one, dict) and type(one.get("id")) is int for one in records
    ):
        raise rows.CorpusError(f"{path}: found no list of {name!r} with ids; fetch the published file")
    by_id: dict[int, dict[str, Any]] = {}
    for record in records:
        if by_id.setdefault(record["id"], record) is not record:
            raise rows.CorpusError(f"{path}: id {record['id']} stands twice in {name!r}; fetch it again")
    return by_id


def draw(segmentation: Any, height: int, width: int) -> np.ndarray:
    """[height, width] bool mask of polygons (their union) or of an RLE, plain or compressed.

    Raises:
        BadRow: it is neither, or made for another size.
    """
    if isinstance(segmentation, dict):
        runs = _checked_runs(segmentation, height, width)
    else:
        runs = coco_mask.merge(coco_mask.frPyObjects(_checked_polygons(segmentation, height, width), height, width))
    try:
        return coco_mask.decode(runs).astype(bool)
    except ValueError as error:
        raise rows.BadRow(f"segmentation: {error}") from None


def _checked_polygons(polygons: Any, height: int, width: int) -> list[list[float]]:
    if not isinstance(polygons, list) or not polygons or not all(isinstance(part, list) for part in polygons):
        raise rows.BadRow(f"segmentation: found {polygons!r:.40}; write a list of polygons or an RLE")
    reach = FARTHEST * max(height, width)
    for part in polygons:
        if len(part) < 6 or len(part) % 2 or not all(isinstance(value, int | float) for value in part):
            raise rows.BadRow(f"segmentation: found the polygon {part!r:.40}; write x, y of three or more corners")
        if not all(abs(value) <= reach for value in part):
            raise rows.BadRow(f"segmentation: a corner lies far outside the {height} x {width} picture")
    return polygons


def _checked_runs(rle: dict[str, Any], height: int, width: int) -> dict[str, Any]:
    counts: Any = rle.get("counts")
    if rle.get("size") != [height, width]:
        raise rows.BadRow(f"segmentation: found an RLE of size {rle.get('size')!r:.40}, not {[height, width]}")
    if isinstance(counts, str) and counts.isascii():
        return {"counts": counts.encode(), "size": [height, width]}
    whole = isinstance(counts, list) and all(type(run) is int and run >= 0 for run in counts)
    if not whole or sum(counts) != height * width:
        raise rows.BadRow(f"segmentation: the RLE's counts do not add up to {height} x {width} pixels")
    return coco_mask.frPyObjects({"counts": counts, "size": [height, width]}, height, width)
