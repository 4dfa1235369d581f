"""COCO-Stuff: class names become requests to paint these classes, read from the official labels in either form.

PNG label maps are read where annotations/{train,val}2017/ is there, else annotations/stuff_{train,val}2017.json. A
map's value is the class id minus 1, 255 is unlabeled. One request in five names a class that is not there, and its
target equals its source, so that the editor learns to leave a picture alone.
Source: github.com/nightrome/cocostuff, stuffthingmaps_trainval2017; sampled as SmartEdit's COCOStuffDataset, except
that a class called absent is truly absent, and that a picture makes several rows, each drawn once: SmartEdit draws
class, wording, colour and window anew at each visit, while rows are prepared once.
"""

import functools
import random
from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np

from fireedit.platform import images, storage
from fireedit.platform.data.corpora import instances, rows, segmentation, stuff_json
from fireedit.platform.data.sample import Sample

CORPUS = "cocostuff"
REQUESTS_PER_PICTURE = 4
ABSENT_SHARE = 0.2
NEVER_DRAWN = frozenset(
    ("street sign", "hat", "shoe", "eye glasses", "plate", "mirror", "window", "desk", "door", "blender", "hair brush")
)
"""Classes that COCO lists and never labelled: a picture may well show one, so none is called absent."""


def read(root: str, split: str = "train") -> rows.Corpus:
    """The requests for every picture of ROOT/images/{train,val}2017 that has labels in ROOT/annotations."""
    rows.require_split(CORPUS, split, ["train", "val"])
    maps, listed = f"annotations/{split}2017", f"annotations/stuff_{split}2017.json"
    if storage.exists(storage.join(root, maps)):
        labels = read_labels(root)
        names = rows.sliced(picture_names(root, split))
        return rows.Corpus(names, functools.partial(read_mapped, root, split, labels))
    path = rows.require(root, listed, f"the labels of COCO-Stuff, unless the label maps lie in {maps}/")
    rows.require(root, f"images/{split}2017", "the pictures of COCO 2017")
    known = instances.read_file(path)
    labels = stuff_json.class_names(path, known)
    pictures = rows.sliced(stuff_json.pictures(known))
    return rows.Corpus(pictures, functools.partial(read_outlined, root, split, labels))


def read_labels(root: str) -> dict[int, str]:
    """Class names by their value in the maps, from lines `id: name` of labels.txt."""
    path = rows.require(root, "labels.txt", "the class list of COCO-Stuff, one `id: name` a line")
    labels = {}
    for number, line in enumerate(storage.read_bytes(path).decode().splitlines(), start=1):
        class_id, colon, name = line.partition(":")
        if not colon or not class_id.strip().isdecimal():
            raise rows.CorpusError(f"{path}, line {number}: found {line!r}; write `id: name`")
        if name.strip() != "unlabeled":
            labels[int(class_id) - 1] = name.strip()
    return labels


def picture_names(root: str, split: str) -> list[str]:
    """Names, without suffix, of all pictures and maps of a split; one that has only half of it will be a bad row."""
    pictures = rows.require(root, f"images/{split}2017", "the pictures of COCO 2017")
    maps = rows.require(root, f"annotations/{split}2017", "the label maps of stuffthingmaps_trainval2017.zip")
    names = {name.removesuffix(".jpg") for name in storage.names(pictures) if name.endswith(".jpg")}
    names |= {name.removesuffix(".png") for name in storage.names(maps) if name.endswith(".png")}
    if not names:
        raise rows.CorpusError(f"{pictures} and {maps} hold no .jpg and no .png; unpack {split}2017.zip there")
    return sorted(names)


def read_mapped(root: str, split: str, labels: dict[int, str], names: Sequence[str]) -> Iterator[Sample]:
    """The samples of pictures with a PNG map."""
    for name in names:
        file = f"annotations/{split}2017/{name}.png"
        read_map = functools.partial(rows.decoded, root, file, images.decode_labels)
        yield from _requests(root, split, labels, name, read_map)


def read_outlined(
    root: str, split: str, labels: dict[int, str], pictures: Sequence[stuff_json.Outlined]
) -> Iterator[Sample]:
    """The samples of pictures with outlines."""
    for picture in pictures:
        yield from _requests(root, split, labels, picture.name, picture.label_map)


def square(rng: random.Random, height: int, width: int) -> tuple[slice, slice]:
    """A square window as high or wide as the short side, at a random place of the long one."""
    side = min(height, width)
    top, left = rng.randint(0, height - side), rng.randint(0, width - side)
    return slice(top, top + side), slice(left, left + side)


def draw_class(
    rng: random.Random, label_map: np.ndarray, labels: dict[int, str], asked: Collection[int | None] = ()
) -> int | None:
    """Draw the class to ask for, as often as ABSENT_SHARE says one that is not shown.

    Args:
        label_map: [H, W] uint8, class id minus 1.
        asked: classes that are drawn only where no other is left.
    Returns:
        Its value in the map, None where nothing is labelled.
    """
    present = [value for value in np.unique(label_map).tolist() if value in labels]
    if not present:
        return None
    shown = {labels[value] for value in present}
    absent = [value for value, name in labels.items() if name not in shown | NEVER_DRAWN]
    pool = absent if absent and rng.random() < ABSENT_SHARE else present
    return rng.choice([value for value in pool if value not in asked] or pool)


def _requests(
    root: str, split: str, labels: dict[int, str], name: str, read_map: Callable[[], np.ndarray]
) -> Iterator[Sample]:
    """The samples of one picture, for different classes as far as there are; all that is random comes from their ids.

    A bad picture is one bad row, and one in which nothing is labelled is asked once to be kept.
    """
    stem, picture = f"{CORPUS}/{split}2017/{name}", f"images/{split}2017/{name}.jpg"
    try:
        label_map = read_map()
        source = rows.decoded(root, picture)
        if source.shape[:2] != label_map.shape:
            raise rows.BadRow(f"{picture}: found {source.shape[:2]} pixels, its labels have {label_map.shape}")
    except rows.BadRow as bad:
        yield Sample(id=stem, corpus=CORPUS, task="edit", error=f"{stem}: {bad}")
        return
    labelled = bool(np.isin(label_map, list(labels)).any())
    asked: list[int | None] = []
    for number in range(REQUESTS_PER_PICTURE if labelled else 1):
        row_id = f"{stem}-{number}"
        rng = random.Random(row_id)
        window = square(rng, *label_map.shape)
        asked.append(draw_class(rng, label_map[window], labels, asked))
        yield _request(row_id, rng, source[window], label_map[window], labels, asked[-1])


def _request(
    row_id: str,
    rng: random.Random,
    source: np.ndarray,
    label_map: np.ndarray,
    labels: dict[int, str],
    value: int | None,
) -> Sample:
    """The sample that asks to paint the class of this value, or to keep the picture where there is none."""
    encoded = target = images.encode_jpeg(source)
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    if value is None:
        instruction = rng.choice(segmentation.KEEP_REQUESTS)
    else:
        instruction, color = segmentation.request(rng, f"the {labels[value]}")
        mask = label_map == value
        if mask.any():
            target = images.encode_jpeg(segmentation.paint(source, mask, color))
            boxes = (segmentation.box(mask),)
    return Sample(
        id=row_id, corpus=CORPUS, task="edit", instruction=instruction, source=encoded, target=target, boxes=boxes
    )
