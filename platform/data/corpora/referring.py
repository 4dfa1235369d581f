"""What RefCOCO, RefCOCO+, RefCOCOg and gRefCOCO share: expressions joined with COCO's outlines, asked to be painted.

Source: github.com/lichengunc/refer and github.com/henghuiding/gRefCOCO; sampled as SmartEdit's RefCOCODataset, except
that overlapping parts of one object are painted too, and that every sentence of a reference is a row, its wording and
colour drawn once: SmartEdit draws sentence, wording and colour anew at each visit, while rows are prepared once. The
plain form of a request names the object's category in place of the expression, where that can mean no other object.
"""

import dataclasses
import functools
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fireedit.platform import images
from fireedit.platform.data.corpora import instances, rows, segmentation
from fireedit.platform.data.sample import Sample

IMAGES = "train2014"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Referred:
    """One picture, what is said of it and the outlines that are meant, before any pixel is read."""

    id: str
    corpus: str
    sentences: list[str] = dataclasses.field(default_factory=list)
    """All differ, each of them means the same objects."""
    file_name: str = ""
    height: int = 0
    width: int = 0
    outlines: list[Any] = dataclasses.field(default_factory=list)
    """COCO segmentations; empty where nothing in the picture is meant."""
    name: str = ""
    """The category of the one object that is meant, if the picture shows no other of it; else empty."""
    error: str = ""


def requests(root: str, referred: Sequence[Referred]) -> rows.Corpus:
    """A sample for every sentence of each; pictures are opened in ROOT/train2014 as they are read."""
    rows.require(root, IMAGES, "the pictures of COCO train2014, COCO_train2014_*.jpg")
    return rows.Corpus(rows.sliced(referred), functools.partial(read_requests, root))


def join(corpus: str, split: str, path: str, refs: Any, known: instances.Instances) -> list[Referred]:
    """The references of a split with their pictures and outlines; what does not join becomes one with `error`.

    Args:
        path: of the file of `refs`, for messages.
    Raises:
        CorpusError: `refs` is no list of references, or none is of this split.
    """
    if not isinstance(refs, list) or not all(isinstance(ref, dict) and "split" in ref for ref in refs):
        raise rows.CorpusError(f"{path}: found a {type(refs).__name__}; it holds a list of dicts with 'split'")
    chosen = [(index, ref) for index, ref in enumerate(refs) if ref["split"] == split]
    if not chosen:
        found = ", ".join(sorted({str(ref["split"]) for ref in refs})) or "nothing"
        raise rows.CorpusError(f"{path} has no references of split {split!r}; found {found}")
    return list(_joined(corpus, split, chosen, known))


def read_requests(root: str, part: Sequence[Referred]) -> Iterator[Sample]:
    """A sample for every sentence, its wording and colour drawn from its id; a bad reference is one bad row."""
    for referred in part:
        try:
            if referred.error:
                raise rows.BadRow(referred.error)
            source, masks = _read_picture(root, referred)
        except rows.BadRow as bad:
            yield Sample(id=referred.id, corpus=referred.corpus, task="edit", error=f"{referred.id}: {bad}")
            continue
        encoded, meant = images.encode_jpeg(source), np.any(masks, axis=0)
        boxes = tuple(segmentation.box(mask) for mask in masks)
        for place, sentence in enumerate(referred.sentences):
            row_id = f"{referred.id}-{place}"
            instruction, color = segmentation.request(random.Random(row_id), sentence)
            plain, _ = segmentation.request(random.Random(row_id), f"the {referred.name}")
            yield Sample(
                id=row_id,
                corpus=referred.corpus,
                task="edit",
                instruction=instruction,
                plain=plain if referred.name else "",
                source=encoded,
                target=images.encode_jpeg(segmentation.paint(source, meant, color)) if masks else encoded,
                boxes=boxes,
            )


def _joined(
    corpus: str, split: str, chosen: Sequence[tuple[int, dict[str, Any]]], known: instances.Instances
) -> Iterator[Referred]:
    seen: set[Any] = set()
    for index, ref in chosen:
        number = ref.get("ref_id")
        name = f"{corpus}/{split}/{number}"
        try:
            if not isinstance(number, int) or number in seen:
                name = f"{corpus}/{split}/at-{index}"
                found = f"ref_id {number} stands twice" if isinstance(number, int) else "found no ref_id"
                raise rows.BadRow(found)
            seen.add(number)
            yield _resolved(corpus, name, ref, known)
        except rows.BadRow as bad:
            yield Referred(id=name, corpus=corpus, error=str(bad))


def _resolved(corpus: str, name: str, ref: dict[str, Any], known: instances.Instances) -> Referred:
    """The picture's name comes from instances.json: a reference's own `file_name` has a suffix that no file has."""
    number = ref.get("image_id")
    image = known.images.get(number) if isinstance(number, int) else None
    if image is None:
        raise rows.BadRow(f"image_id {number!r:.40} is not in {instances.FILE}")
    try:
        file_name, height, width = str(image["file_name"]), int(image["height"]), int(image["width"])
        said = [sentence["sent"].strip() for sentence in ref["sentences"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise rows.BadRow(f"found no sentences, or no name and size of the picture ({error!r:.60})") from None
    sentences = [sentence for sentence in dict.fromkeys(said) if sentence and "\ufffd" not in sentence]
    if not sentences:
        raise rows.BadRow("found no sentence that can be read")
    meant = _meant(ref, known)
    return Referred(
        id=name,
        corpus=corpus,
        sentences=sentences,
        file_name=rows.inside(file_name),
        height=height,
        width=width,
        outlines=[one.get("segmentation") for one in meant],
        name=known.name_of(meant[0]) if len(meant) == 1 else "",
    )


def _meant(ref: dict[str, Any], known: instances.Instances) -> list[dict[str, Any]]:
    """The annotation of one object, or of each in gRefCOCO's list: [-1] means none, and crowds are passed over."""
    meant = ref.get("ann_id")
    if meant == [-1]:
        return []
    numbers = meant if isinstance(meant, list) else [meant]
    found = [known.annotations.get(number) for number in numbers if isinstance(number, int)]
    annotations = [one for one in found if one is not None and one.get("image_id") == ref["image_id"]]
    if not annotations or len(annotations) < len(numbers):
        raise rows.BadRow(f"ann_id {meant!r:.40} is not in {instances.FILE} with image_id {ref['image_id']}")
    if isinstance(meant, list):
        annotations = [one for one in annotations if not one.get("iscrowd")]
    if not annotations:
        raise rows.BadRow(f"ann_id {meant!r:.40} means crowds only")
    return annotations


def _read_picture(root: str, referred: Referred) -> tuple[np.ndarray, list[np.ndarray]]:
    """The picture and the mask of each outline; one that holds no pixel is left out where others do."""
    name = f"{IMAGES}/{referred.file_name}"
    source = rows.decoded(root, name)
    size = (referred.height, referred.width)
    if source.shape[:2] != size:
        raise rows.BadRow(f"{name}: found {source.shape[:2]} pixels, {instances.FILE} says {size}")
    masks = [mask for outline in referred.outlines if (mask := instances.draw(outline, *size)).any()]
    if referred.outlines and not masks:
        raise rows.BadRow("segmentation: the outline holds no pixel")
    return source, masks
