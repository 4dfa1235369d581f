"""RefCOCO, RefCOCO+, RefCOCOg and gRefCOCO: expressions that mean objects of a COCO picture, as requests to paint them.

In gRefCOCO an expression means no, one or several objects; for none, the target equals the source. The pickles are read
without running what they may hold.
Source: github.com/lichengunc/refer, `refs(unc).p` and `refs(umd).p`, and github.com/henghuiding/gRefCOCO,
`grefs(unc).json`, beside `instances.json`; sampled as SmartEdit's RefCOCODataset, except that overlapping parts of one
object are painted too, and that every sentence of a reference is a row, its wording and color drawn once: SmartEdit
draws sentence, wording and color anew at each visit, while rows are prepared once. The plain form of a request names
the object's category in place of the expression, where that can mean no other object.
"""

import dataclasses
import functools
import io
import pickle
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fireedit.platform import images
from fireedit.platform.data.corpora import instances, masks, rows
from fireedit.platform.data.sample import Sample

REFS = {
    "refcoco": "refs(unc).p",
    "refcoco+": "refs(unc).p",
    "refcocog": "refs(umd).p",
    "grefcoco": "grefs(unc).json",
}
"""File of references by corpus."""
SPLITS = ["train", "val", "testA", "testB"]
UMD_SPLITS = ["train", "val", "test"]
IMAGES = "train2014"
NO_SENTENCE = "references without a sentence"

_DAMAGE = (pickle.PickleError, EOFError, ValueError, TypeError, LookupError, AttributeError, OverflowError, MemoryError)
"""Errors that Python was seen to raise on damaged pickles."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReferredObjects:
    """Picture, its expressions and the outlines that they mean, before any pixel is read."""

    sentences: list[str]
    """Distinct expressions, each of which means the same objects."""
    file_name: str
    height: int
    width: int
    outlines: list[Any]
    """COCO segmentations; empty where nothing in the picture is meant."""
    name: str
    """Category of the one object that is meant, if the picture shows no other of it; else empty."""


def read(root: str, split: str = "train", *, corpus: str = "refcoco") -> rows.Corpus:
    """Open every sentence of every reference of ROOT/refs(*).p or grefs(unc).json, its picture in ROOT/train2014/."""
    skipped: Counter[str] = Counter()
    references = read_references(root, split, corpus, skipped)
    rows.require(root, IMAGES, "the pictures of COCO train2014, COCO_train2014_*.jpg")
    return rows.in_parts(references, functools.partial(read_requests, root), skipped)


def read_references(root: str, split: str, corpus: str, skipped: Counter[str]) -> list[rows.Item]:
    """Read the references of a split, joined with ROOT/instances.json; see `join`."""
    file = REFS[corpus]
    rows.require_split(corpus, split, UMD_SPLITS if "umd" in file else SPLITS)
    path = rows.require(root, file, f"the references of {corpus}")
    refs = read_pickle(path) if file.endswith(".p") else rows.read_json(path)
    known = instances.read_file(rows.require(root, instances.FILE, "the objects of COCO train2014"))
    return join(corpus, split, path, refs, known, skipped)


def read_pickle(path: str) -> Any:
    """Unpickle a file of lists, dicts, tuples, strings and numbers; strings of Python 2 are taken for UTF-8.

    Raises:
        CorpusError: it imports something, or is damaged.
    """
    try:
        return _PlainUnpickler(rows.load(path), path).load()
    except rows.CorpusError:
        raise
    except _DAMAGE as error:
        raise rows.CorpusError(f"{path} is not a pickle: {error}; {rows.advice(path)}") from None


class _PlainUnpickler(pickle.Unpickler):
    """Unpickler that refuses imports; code that a pickle calls must be imported first."""

    def __init__(self, data: bytes, path: str):
        super().__init__(io.BytesIO(data), encoding="utf-8", errors="replace")
        self.path = path

    def find_class(self, module_name: str, global_name: str) -> Any:
        raise rows.CorpusError(
            f"{self.path} tries to import {module_name}.{global_name}, refused: only lists, dicts, tuples, strings and "
            "numbers are taken; fetch the published file"
        )


def join(
    corpus: str, split: str, path: str, refs: Any, known: instances.Instances, skipped: Counter[str]
) -> list[rows.Item]:
    """Join the references of a split with their pictures and outlines, by id; a failure is a BadRow.

    Args:
        path: of the file of `refs`, for messages.
        skipped: counts references without a sentence, of which gRefCOCO has some: they are neither rows nor damage.
    Raises:
        CorpusError: `refs` is no list of references, or none is of this split.
    """
    if not isinstance(refs, list) or not all(isinstance(ref, dict) and "split" in ref for ref in refs):
        raise rows.CorpusError(f"{path}: found a {type(refs).__name__}; it holds a list of dicts with 'split'")
    chosen = [(index, ref) for index, ref in enumerate(refs) if ref["split"] == split]
    if not chosen:
        splits = ", ".join(sorted({str(ref["split"]) for ref in refs})) or "nothing"
        raise rows.CorpusError(f"{path} has no references of split {split!r}; found {splits}")
    with_sentence = [(index, ref) for index, ref in chosen if not _is_silent(ref)]
    skipped[NO_SENTENCE] += len(chosen) - len(with_sentence)
    return list(_joined(corpus, split, with_sentence, known))


def read_requests(root: str, name: str, referred: ReferredObjects) -> Iterator[Sample]:
    """Make every sentence a sample, its wording and color drawn from its id."""
    source, outlined = _read_picture(root, referred)
    encoded, union = images.encode_jpeg(source), np.any(outlined, axis=0)
    boxes = tuple(masks.box(mask) for mask in outlined)
    for place, sentence in enumerate(referred.sentences):
        row_id = f"{name}-{place}"
        instruction, color = masks.request(random.Random(row_id), sentence)
        plain, _ = masks.request(random.Random(row_id), f"the {referred.name}")
        yield Sample(
            id=row_id,
            corpus=name.partition("/")[0],
            task="edit",
            instruction=instruction,
            plain=plain if referred.name else "",
            source=encoded,
            target=images.encode_jpeg(masks.paint(source, union, color)) if outlined else encoded,
            boxes=boxes,
        )


def _is_silent(ref: dict[str, Any]) -> bool:
    """Check if a reference lists no sentence, or blank ones only."""
    sentences = ref.get("sentences")
    return isinstance(sentences, list) and all(
        isinstance(sentence, dict) and isinstance(sentence.get("sent"), str) and not sentence["sent"].strip()
        for sentence in sentences
    )


def _joined(
    corpus: str, split: str, refs: Sequence[tuple[int, dict[str, Any]]], known: instances.Instances
) -> Iterator[rows.Item]:
    seen: set[Any] = set()
    for index, ref in refs:
        number = ref.get("ref_id")
        name = f"{corpus}/{split}/{number}"
        try:
            if not isinstance(number, int) or number in seen:
                name = f"{corpus}/{split}/at-{index}"
                is_number = isinstance(number, int)
                raise rows.BadRow(f"ref_id {number} stands twice" if is_number else "found no ref_id")
            seen.add(number)
            yield name, _resolved(ref, known)
        except rows.BadRow as bad:
            yield name, bad


def _resolved(ref: dict[str, Any], known: instances.Instances) -> ReferredObjects:
    """Join one reference; a reference's own `file_name` has a suffix that no file has, so instances.json names it."""
    number = ref.get("image_id")
    image = known.images.get(number) if isinstance(number, int) else None
    if image is None:
        raise rows.BadRow(f"image_id {number!r:.40} is not in {instances.FILE}")
    try:
        file_name, height, width = str(image["file_name"]), int(image["height"]), int(image["width"])
        texts = [sentence["sent"].strip() for sentence in ref["sentences"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise rows.BadRow(f"found no sentences, or no name and size of the picture ({error!r:.60})") from None
    sentences = [text for text in dict.fromkeys(texts) if text and "\ufffd" not in text]
    if not sentences:
        raise rows.BadRow("found no sentence that can be read")
    annotations = _annotations(ref, known)
    return ReferredObjects(
        sentences=sentences,
        file_name=rows.inside(file_name),
        height=height,
        width=width,
        outlines=[annotation.get("segmentation") for annotation in annotations],
        name=known.name_of(annotations[0]) if len(annotations) == 1 else "",
    )


def _annotations(ref: dict[str, Any], known: instances.Instances) -> list[dict[str, Any]]:
    """Find the annotation of one object, or of each in gRefCOCO's list: [-1] means none, and crowds are left out."""
    ann_id = ref.get("ann_id")
    if ann_id == [-1]:
        return []
    numbers = ann_id if isinstance(ann_id, list) else [ann_id]
    listed = [known.annotations.get(number) for number in numbers if isinstance(number, int)]
    annotations = [annotation for annotation in listed if annotation and annotation.get("image_id") == ref["image_id"]]
    if not annotations or len(annotations) < len(numbers):
        raise rows.BadRow(f"ann_id {ann_id!r:.40} is not in {instances.FILE} with image_id {ref['image_id']}")
    if isinstance(ann_id, list):
        annotations = [annotation for annotation in annotations if not annotation.get("iscrowd")]
    if not annotations:
        raise rows.BadRow(f"ann_id {ann_id!r:.40} means crowds only")
    return annotations


def _read_picture(root: str, referred: ReferredObjects) -> tuple[np.ndarray, list[np.ndarray]]:
    """Read the picture and the mask of each outline; an empty mask is left out where others are not."""
    name = f"{IMAGES}/{referred.file_name}"
    source = rows.decoded(root, name)
    size = (referred.height, referred.width)
    if source.shape[:2] != size:
        raise rows.BadRow(f"{name}: found {source.shape[:2]} pixels, {instances.FILE} says {size}")
    outlined = [mask for outline in referred.outlines if (mask := instances.draw(outline, *size)).any()]
    if referred.outlines and not outlined:
        raise rows.BadRow("segmentation: the outline holds no pixel")
    return source, outlined
