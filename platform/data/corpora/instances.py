"""COCO's instance files: pictures by number, and the outline of every object as a mask.

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
"""Distance, in sides of the picture, at which a corner may still be; farther is damage and expensive to draw."""
CORNERS = 3
"""Fewest corners of a polygon with an area; COCO's published loaders skip parts that have fewer."""


@dataclasses.dataclass(frozen=True)
class Instances:
    """Records of the file by their ids."""

    images: dict[int, dict[str, Any]]
    annotations: dict[int, dict[str, Any]]
    categories: dict[int, dict[str, Any]]

    @functools.cached_property
    def counts(self) -> Counter[tuple[int, int]]:
        """Number of objects by ids of picture and category; a crowd counts as one."""
        return Counter(pair for annotation in self.annotations.values() if (pair := _picture_and_category(annotation)))

    def name_of(self, annotation: dict[str, Any]) -> str:
        """Name an object's category if its picture shows no other of it; else empty."""
        pair = _picture_and_category(annotation)
        if pair is None or self.counts[pair] > 1:
            return ""
        return str(self.categories.get(pair[1], {}).get("name", ""))


def _picture_and_category(annotation: dict[str, Any]) -> tuple[int, int] | None:
    picture, category = annotation.get("image_id"), annotation.get("category_id")
    return (picture, category) if isinstance(picture, int) and isinstance(category, int) else None


def read_file(path: str) -> Instances:
    """Read a file of COCO's format whole.

    Raises:
        CorpusError: it is not COCO's, or an id stands in it twice.
    """
    content = rows.read_json(path)
    return Instances(*(_by_id(path, content, name) for name in ("images", "annotations", "categories")))


def _by_id(path: str, content: Any, name: str) -> dict[int, dict[str, Any]]:
    records = content.get(name) if isinstance(content, dict) else None
    if not isinstance(records, list) or not all(
        isinstance(record, dict) and type(record.get("id")) is int for record in records
    ):
        raise rows.CorpusError(f"{path}: found no list of {name!r} with ids; fetch the published file")
    by_id: dict[int, dict[str, Any]] = {}
    for record in records:
        if by_id.setdefault(record["id"], record) is not record:
            raise rows.CorpusError(f"{path}: id {record['id']} stands twice in {name!r}; fetch it again")
    return by_id


def draw(segmentation: Any, height: int, width: int) -> np.ndarray:
    """Draw polygons (their union) or an RLE, plain or compressed, as a [height, width] bool mask.

    Polygons with too few corners are skipped; an outline without any other is an empty mask.

    Raises:
        BadRow: neither polygons nor an RLE, or made for another size.
    """
    if isinstance(segmentation, dict):
        runs = _checked_runs(segmentation, height, width)
    elif polygons := _checked_polygons(segmentation, height, width):
        runs = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    else:
        return np.zeros((height, width), bool)
    try:
        return coco_mask.decode(runs).astype(bool)
    except ValueError as error:
        raise rows.BadRow(f"segmentation: {error}") from None


def _checked_polygons(segmentation: Any, height: int, width: int) -> list[list[float]]:
    if not isinstance(segmentation, list) or not all(isinstance(polygon, list) for polygon in segmentation):
        raise rows.BadRow(f"segmentation: found {segmentation!r:.40}; write a list of polygons or an RLE")
    polygons = [polygon for polygon in segmentation if len(polygon) >= 2 * CORNERS]
    reach = FARTHEST * max(height, width)
    for polygon in polygons:
        if len(polygon) % 2 or not all(isinstance(value, int | float) for value in polygon):
            raise rows.BadRow(f"segmentation: found the polygon {polygon!r:.40}; write an x and a y for every corner")
        if not all(abs(value) <= reach for value in polygon):
            raise rows.BadRow(f"segmentation: a corner is far outside the {height} x {width} picture")
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
