"""COCO-Stuff: class names become requests to paint these classes, read from the official labels in either form.

PNG label maps are read where annotations/{train,val}2017/ is there, else annotations/stuff_{train,val}2017.json, which
has an outline for each class of stuff, ids 92 to 182. A map's value is the class id minus 1, 255 is unlabeled. One
request in five names an absent class, and its target equals its source, so that the editor learns to leave a picture
alone.
Source: github.com/nightrome/cocostuff, stuffthingmaps_trainval2017 and `stuff_{train,val}2017.json`; sampled as
SmartEdit's COCOStuffDataset, except that a class called absent is truly absent, and that a picture makes several rows,
each drawn once: SmartEdit draws class, wording, color and window anew at each visit, while rows are prepared once.
"""

import dataclasses
import functools
import random
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from fireedit.platform import images, storage
from fireedit.platform.data.corpora import instances, masks, rows
from fireedit.platform.data.sample import Sample
from fireedit.platform.labels import decode_labels

CORPUS = "cocostuff"
REQUESTS_PER_PICTURE = 4
ABSENT_SHARE = 0.2
NEVER_DRAWN = frozenset(
    ("street sign", "hat", "shoe", "eye glasses", "plate", "mirror", "window", "desk", "door", "blender", "hair brush")
)
"""Classes that COCO lists and never labeled: a picture may well show one, so none is called absent."""
OTHER = 183
"""Class, in the JSON form, of the pixels that are not stuff: it has no name to ask for."""
UNLABELED = 255


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutlinedPicture:
    """A picture and the outlines of its classes, before any pixel is read."""

    name: str
    """File name without suffix."""
    height: int
    width: int
    outlines: tuple[tuple[int, Any], ...]
    """Class id minus 1, and a COCO segmentation."""

    def label_map(self) -> np.ndarray:
        """Draw [height, width] uint8, as the PNG maps are: class id minus 1, 255 where nothing is labeled.

        Raises:
            BadRow: one of the outlines is damaged.
        """
        labels = np.full((self.height, self.width), UNLABELED, np.uint8)
        for value, outline in self.outlines:
            labels[instances.draw(outline, self.height, self.width)] = value
        return labels


def read(root: str, split: str = "train") -> rows.Corpus:
    """Open the requests for every picture of ROOT/images/{train,val}2017 that has labels in ROOT/annotations."""
    rows.require_split(CORPUS, split, ["train", "val"])
    maps, file = f"annotations/{split}2017", f"annotations/stuff_{split}2017.json"
    if storage.exists(storage.join(root, maps)):
        labels, skipped = read_labels(root), Counter[str]()
        names = picture_names(root, split, skipped)
        items = [(f"{CORPUS}/{split}2017/{name}", name) for name in names]
        return rows.in_parts(items, functools.partial(read_mapped, root, split, labels), skipped)
    path = rows.require(root, file, f"the labels of COCO-Stuff, unless the label maps are in {maps}/")
    rows.require(root, f"images/{split}2017", "the pictures of COCO 2017")
    known = instances.read_file(path)
    labels = class_names(path, known)
    items = [(f"{CORPUS}/{split}2017/{name}", picture) for name, picture in outlined_pictures(known)]
    return rows.in_parts(items, functools.partial(read_outlined, root, split, labels))


def read_labels(root: str) -> dict[int, str]:
    """Read class names by their value in the maps, from lines `id: name` of labels.txt."""
    path = rows.require(root, "labels.txt", "the class list of COCO-Stuff, one `id: name` a line")
    labels = {}
    for number, line in enumerate(rows.read_lines(path), start=1):
        class_id, colon, name = line.partition(":")
        if line.strip() and (not colon or not class_id.strip().isdecimal() or "\ufffd" in name):
            raise rows.CorpusError(f"{path}, line {number}: found {line!r:.60}; write `id: name`")
        if line.strip() and name.strip() != "unlabeled":
            labels[int(class_id) - 1] = name.strip()
    if not labels:
        raise rows.CorpusError(f"{path}: found no class; write one `id: name` a line")
    return labels


def picture_names(root: str, split: str, skipped: Counter[str]) -> list[str]:
    """Name, without suffix, all pictures and maps of a split; one that has only half of it will be a bad row.

    Files that are no data, as NAME_labelTrainIds.png beside NAME.png, are counted in `skipped`.
    """
    pictures = rows.require(root, f"images/{split}2017", "the pictures of COCO 2017")
    maps = rows.require(root, f"annotations/{split}2017", "the label maps of stuffthingmaps_trainval2017.zip")
    of_pictures, of_maps = (
        {name.removesuffix(suffix) for name in rows.data_names(folder, skipped) if name.endswith(suffix)}
        for folder, suffix in ((pictures, ".jpg"), (maps, ".png"))
    )
    names = of_pictures | of_maps
    beside = rows.companions(names) - (of_pictures & of_maps)
    skipped[rows.COMPANION_REASON] += len(beside)
    if not names:
        raise rows.CorpusError(f"{pictures} and {maps} hold no .jpg and no .png; unpack {split}2017.zip there")
    return sorted(names - beside)


def class_names(path: str, known: instances.Instances) -> dict[int, str]:
    """Name the classes of the JSON form by their value in a label map; `path` is for messages."""
    names = {number: record.get("name") for number, record in known.categories.items() if number != OTHER}
    for number, name in names.items():
        if not isinstance(name, str) or not 1 <= number <= UNLABELED:
            raise rows.CorpusError(f"{path}: found the category {number} called {name!r:.40}; fetch the published file")
    return {number - 1: str(name) for number, name in names.items()}


def outlined_pictures(known: instances.Instances) -> list[rows.Item]:
    """List all pictures of the JSON form by name, in the file's order; a damaged record is a BadRow."""
    of_picture: dict[int, list[dict[str, Any]]] = {number: [] for number in known.images}
    strays = []
    for number, annotation in known.annotations.items():
        owner = annotation.get("image_id")
        if isinstance(owner, int) and owner in of_picture:
            of_picture[owner].append(annotation)
        else:
            error = f"annotation {number}: found the image_id {owner!r:.40}, which is not listed"
            strays.append((f"annotation-{number}", rows.BadRow(error)))
    return [*_outlined(known, of_picture), *strays]


def read_mapped(root: str, split: str, labels: dict[int, str], row_id: str, name: str) -> Iterator[Sample]:
    """Read the samples of a picture with a PNG map."""
    label_map = _read_map(root, f"annotations/{split}2017/{name}.png", max(labels))
    return _requests(root, f"images/{split}2017/{name}.jpg", labels, row_id, label_map)


def read_outlined(
    root: str, split: str, labels: dict[int, str], row_id: str, picture: OutlinedPicture
) -> Iterator[Sample]:
    """Read the samples of a picture with outlines."""
    return _requests(root, f"images/{split}2017/{picture.name}.jpg", labels, row_id, picture.label_map())


def square(rng: random.Random, height: int, width: int) -> tuple[slice, slice]:
    """Draw a square window as high or wide as the short side, at a random place of the long one."""
    side = min(height, width)
    top, left = rng.randint(0, height - side), rng.randint(0, width - side)
    return slice(top, top + side), slice(left, left + side)


def draw_class(
    rng: random.Random, label_map: np.ndarray, labels: dict[int, str], used: Collection[int | None] = ()
) -> int | None:
    """Draw the class to ask for, an absent one with probability ABSENT_SHARE.

    Args:
        label_map: [H, W] uint8, class id minus 1.
        used: classes that are drawn only where no other is left.
    Returns:
        Its value in the map, None where nothing is labeled.
    """
    present = [value for value in np.unique(label_map).tolist() if value in labels]
    if not present:
        return None
    shown = {labels[value] for value in present}
    absent = [value for value, name in labels.items() if name not in shown | NEVER_DRAWN]
    pool = absent if absent and rng.random() < ABSENT_SHARE else present
    return rng.choice([value for value in pool if value not in used] or pool)


def _read_map(root: str, file: str, largest: int) -> np.ndarray:
    label_map = rows.decoded(root, file, decode_labels)
    value = np.max(label_map, initial=0, where=label_map != UNLABELED)
    if value > largest:
        raise rows.BadRow(f"{file}: found the label {value}, but labels.txt ends at {largest}; fetch both again")
    return label_map


def _outlined(known: instances.Instances, of_picture: dict[int, list[dict[str, Any]]]) -> Iterator[rows.Item]:
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
            outlines = tuple(_outline(annotation, known) for annotation in of_picture[number])
            named = tuple(outline for outline in outlines if outline[0] != OTHER - 1)
            yield name, OutlinedPicture(name=name, height=height, width=width, outlines=named)
        except rows.BadRow as bad:
            yield name, bad


def _outline(annotation: dict[str, Any], known: instances.Instances) -> tuple[int, Any]:
    category = annotation.get("category_id")
    if not isinstance(category, int) or (category != OTHER and category not in known.categories):
        raise rows.BadRow(f"annotation {annotation['id']}: found the category {category!r:.40}, which is not listed")
    return category - 1, annotation.get("segmentation")


def _requests(root: str, picture: str, labels: dict[int, str], stem: str, label_map: np.ndarray) -> Iterator[Sample]:
    """Make the samples of one picture, for different classes as far as there are; all draws come from their ids.

    One without labels makes one request to keep it.
    """
    source = rows.decoded(root, picture)
    if source.shape[:2] != label_map.shape:
        raise rows.BadRow(f"{picture}: found {source.shape[:2]} pixels, its labels have {label_map.shape}")
    labeled = bool(np.isin(label_map, list(labels)).any())
    used: list[int | None] = []
    for number in range(REQUESTS_PER_PICTURE if labeled else 1):
        row_id = f"{stem}-{number}"
        rng = random.Random(row_id)
        window = square(rng, *label_map.shape)
        used.append(draw_class(rng, label_map[window], labels, used))
        yield _request(row_id, rng, source[window], label_map[window], labels, used[-1])


def _request(
    row_id: str,
    rng: random.Random,
    source: np.ndarray,
    label_map: np.ndarray,
    labels: dict[int, str],
    value: int | None,
) -> Sample:
    """Make the sample that asks to paint the class of this value, or to keep the picture where there is none."""
    encoded = target = images.encode_jpeg(source)
    boxes: tuple[masks.Box, ...] = ()
    if value is None:
        instruction = rng.choice(masks.KEEP_REQUESTS)
    else:
        instruction, color = masks.request(rng, f"the {labels[value]}")
        mask = label_map == value
        if mask.any():
            target = images.encode_jpeg(masks.paint(source, mask, color))
            boxes = (masks.box(mask),)
    return Sample(
        id=row_id, corpus=CORPUS, task="edit", instruction=instruction, source=encoded, target=target, boxes=boxes
    )
