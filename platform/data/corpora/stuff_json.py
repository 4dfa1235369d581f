"""COCO-Stuff's labels as COCO's own JSON: for every picture an outline of each class of stuff, ids 92 to 182.

Source: github.com/nightrome/cocostuff, `stuff_{train,val}2017.json`.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from fireedit.platform import images
from fireedit.platform.data.corpora import instances, rows

OTHER = 183
"""The class of all that is no stuff: nothing that one could ask for by its name."""
UNLABELED = 255


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outlined:
    """A picture and the outlines of what is labelled in it, before any pixel is read."""

    name: str
    """Of its file, without suffix."""
    height: int = 0
    width: int = 0
    outlines: tuple[tuple[int, Any], ...] = ()
    """Class id minus 1, and a COCO segmentation."""
    error: str = ""

    def label_map(self) -> np.ndarray:
        """[height, width] uint8, as the PNG maps are: class id minus 1, 255 where nothing is labelled.

        Raises:
            BadRow: the record or one of its outlines is damaged.
        """
        if self.error:
            raise rows.BadRow(self.error)
        labels = np.full((self.height, self.width), UNLABELED, np.uint8)
        for value, outline in self.outlines:
            labels[instances.draw(outline, self.height, self.width)] = value
        return labels


def class_names(path: str, known: instances.Instances) -> dict[int, str]:
    """Class names by their value in a label map.

    Args:
        path: of the file, for messages.
    """
    names = {number: record.get("name") for number, record in known.categories.items() if number != OTHER}
    for number, name in names.items():
        if not isinstance(name, str) or not 1 <= number <= UNLABELED:
            raise rows.CorpusError(f"{path}: found the category {number} called {name!r:.40}; fetch the published file")
    return {number - 1: str(name) for number, name in names.items()}


def pictures(known: instances.Instances) -> list[Outlined]:
    """All pictures in the file's order; what cannot be used of it becomes one with `error`."""
    of_picture: dict[int, list[dict[str, Any]]] = {number: [] for number in known.images}
    strays = []
    for number, annotation in known.annotations.items():
        owner = annotation.get("image_id")
        if isinstance(owner, int) and owner in of_picture:
            of_picture[owner].append(annotation)
        else:
            error = f"annotation {number}: found the image_id {owner!r:.40}, which is not listed"
            strays.append(Outlined(name=f"annotation-{number}", error=error))
    return [*_pictures(known, of_picture), *strays]


def _pictures(known: instances.Instances, of_picture: dict[int, list[dict[str, Any]]]) -> Iterator[Outlined]:
    seen: set[str] = set()
    for number, image in known.images.items():
        name = f"image-{number}"
        try:
            fields: Any = [image.get(field) for field in ("file_name", "height", "width")]
            file_name, height, width = fields
            sized = type(height) is int and type(width) is int and min(height, width) > 0
            if not isinstance(file_name, str) or not sized or height * width > images.MAX_PIXELS:
                raise rows.BadRow(f"image {number}: found no name and size of the picture")
            if file_name in seen:
                raise rows.BadRow(f"image {number}: {file_name} is listed twice")
            name = rows.inside(file_name).removesuffix(".jpg")
            seen.add(file_name)
            labelled = tuple(_labelled(annotation, known) for annotation in of_picture[number])
            wanted = tuple(pair for pair in labelled if pair[0] != OTHER - 1)
            yield Outlined(name=name, height=height, width=width, outlines=wanted)
        except rows.BadRow as bad:
            yield Outlined(name=name, error=str(bad))


def _labelled(annotation: dict[str, Any], known: instances.Instances) -> tuple[int, Any]:
    category = annotation.get("category_id")
    if not isinstance(category, int) or (category != OTHER and category not in known.categories):
        raise rows.BadRow(f"annotation {annotation['id']}: found the category {category!r:.40}, which is not listed")
    return category - 1, annotation.get("segmentation")
