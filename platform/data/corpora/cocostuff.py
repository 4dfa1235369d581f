"""COCO-Stuff: a class name becomes a request to paint that class, read from the official labels in either form.

PNG label maps are read where annotations/{train,val}2017/ is there, else annotations/stuff_{train,val}2017.json. A
map's value is the class id minus 1, 255 is unlabeled. One request in five names a class that is not there, and its
target equals its source, so that the editor learns to leave a picture alone.
Source: github.com/nightrome/cocostuff, stuffthingmaps_trainval2017; sampled as SmartEdit's COCOStuffDataset, except
that a class called absent is truly absent.
"""

import functools
import random
from collections.abc import Callable

import numpy as np

from fireedit.platform import images, storage
from fireedit.platform.data.corpora import instances, rows, segmentation, stuff_json
from fireedit.platform.data.sample import Sample

CORPUS = "cocostuff"
ABSENT_SHARE = 0.2
NEVER_DRAWN = frozenset(
    ("street sign", "hat", "shoe", "eye glasses", "plate", "mirror", "window", "desk", "door", "blender", "hair brush")
)
"""Classes that COCO lists and never labelled: a picture may well show one, so none is called absent."""


def read(root: str, split: str = "train") -> rows.Corpus:
    """A request for every picture of ROOT/images/{train,val}2017 that has labels in ROOT/annotations."""
    rows.require_split(CORPUS, split, ["train", "val"])
    maps, listed = f"annotations/{split}2017", f"annotations/stuff_{split}2017.json"
    if storage.exists(storage.join(root, maps)):
        labels = read_labels(root)
        return rows.in_parts(picture_names(root, split), functools.partial(read_mapped, root, split, labels=labels))
    path = rows.require(root, listed, f"the labels of COCO-Stuff, unless the label maps lie in {maps}/")
    rows.require(root, f"images/{split}2017", "the pictures of COCO 2017")
    known = instances.read_file(path)
    labels = stuff_json.class_names(path, known)
    return rows.in_parts(stuff_json.pictures(known), functools.partial(read_outlined, root, split, labels=labels))


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


def read_mapped(root: str, split: str, name: str, labels: dict[int, str]) -> Sample:
    """One sample of one picture with a PNG map."""
    file = f"annotations/{split}2017/{name}.png"
    return _request(root, split, name, labels, lambda: rows.decoded(root, file, images.decode_labels))


def read_outlined(root: str, split: str, picture: stuff_json.Outlined, labels: dict[int, str]) -> Sample:
    """One sample of one picture with outlines."""
    return _request(root, split, picture.name, labels, picture.label_map)


def square(rng: random.Random, height: int, width: int) -> tuple[slice, slice]:
    """A square window as high or wide as the short side, at a random place of the long one."""
    side = min(height, width)
    top, left = rng.randint(0, height - side), rng.randint(0, width - side)
    return slice(top, top + side), slice(left, left + side)


def ask(rng: random.Random, label_map: np.ndarray, labels: dict[int, str]) -> tuple[str, np.ndarray, str]:
    """Draw what to ask of a picture.

    Args:
        label_map: [H, W] uint8, class id minus 1.
    Returns:
        The instruction, the [H, W] bool mask to paint (empty where the class is absent), and the colour's name.
    """
    present = [value for value in np.unique(label_map).tolist() if value in labels]
    shown = {labels[value] for value in present}
    absent = [value for value, name in labels.items() if name not in shown | NEVER_DRAWN]
    if not present:
        return rng.choice(segmentation.KEEP_REQUESTS), np.zeros(label_map.shape, bool), "red"
    pool = absent if absent and rng.random() < ABSENT_SHARE else present
    value = rng.choice(pool)
    instruction, color = segmentation.request(rng, f"the {labels[value]}")
    return instruction, label_map == value, color


def _request(root: str, split: str, name: str, labels: dict[int, str], read_map: Callable[[], np.ndarray]) -> Sample:
    """What is random in a sample is drawn from its id, so it is the same on every visit."""
    row_id, picture = f"{CORPUS}/{split}2017/{name}", f"images/{split}2017/{name}.jpg"
    try:
        label_map = read_map()
        source = rows.decoded(root, picture)
        if source.shape[:2] != label_map.shape:
            raise rows.BadRow(f"{picture}: found {source.shape[:2]} pixels, its labels have {label_map.shape}")
    except rows.BadRow as bad:
        return Sample(id=row_id, corpus=CORPUS, task="edit", error=f"{row_id}: {bad}")
    rng = random.Random(row_id)
    window = square(rng, *label_map.shape)
    source, label_map = source[window], label_map[window]
    instruction, mask, color = ask(rng, label_map, labels)
    encoded, shown = images.encode_jpeg(source), bool(mask.any())
    return Sample(
        id=row_id,
        corpus=CORPUS,
        task="edit",
        instruction=instruction,
        source=encoded,
        target=images.encode_jpeg(segmentation.paint(source, mask, color)) if shown else encoded,
        boxes=(segmentation.box(mask),) if shown else (),
    )
