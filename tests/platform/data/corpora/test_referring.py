from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fireedit.platform import images
from fireedit.platform.data.corpora import referring, rows, segmentation
from fireedit.platform.data.corpora.instances import Instances
from fireedit.platform.data.sample import Sample

NAME = "COCO_train2014_000000000001.jpg"
PICTURE = np.full((20, 30, 3), 128, np.uint8)
LEFT = [0.0, 0.0, 15.0, 0.0, 15.0, 20.0, 0.0, 20.0]
RIGHT = [15.0, 0.0, 30.0, 0.0, 30.0, 20.0, 15.0, 20.0]


def known(**changed: Any) -> Instances:
    image = {"id": 1, "file_name": NAME, "height": 20, "width": 30} | changed
    annotations = {
        5: {"id": 5, "image_id": 1, "segmentation": [LEFT], "iscrowd": 0},
        6: {"id": 6, "image_id": 1, "segmentation": [RIGHT], "iscrowd": 0},
        7: {"id": 7, "image_id": 2, "segmentation": [RIGHT], "iscrowd": 0},
        8: {"id": 8, "image_id": 1, "segmentation": {"size": [20, 30], "counts": [300, 300]}, "iscrowd": 1},
        9: {"id": 9, "image_id": 1, "segmentation": "LEFT", "iscrowd": 0},
    }
    return Instances({1: image}, annotations, {})


def ref(**changed: Any) -> dict[str, Any]:
    plain = {
        "ref_id": 3,
        "ann_id": 5,
        "image_id": 1,
        "split": "train",
        "file_name": "COCO_train2014_000000000001_5.jpg",
    }
    return plain | {"sentences": [{"sent": "left half"}, {"sent": "the half before"}]} | changed


def samples_of(folder: Path, one: dict[str, Any], instances: Instances | None = None) -> list[Sample]:
    (folder / "train2014").mkdir(exist_ok=True)
    if not (folder / "train2014" / NAME).exists():
        (folder / "train2014" / NAME).write_bytes(images.encode_jpeg(PICTURE))
    joined = referring.join("refcoco", "train", "refs.p", [one], instances or known())
    return list(referring.requests(str(folder), joined))


@pytest.mark.parametrize(
    ("meant", "halves"),
    [(5, ["left"]), ([6], ["right"]), ([5, 6], ["left", "right"]), ([5, 8], ["left"]), (8, ["right"])],
    ids=["one", "list of one", "union", "crowds are passed over in a list", "an RLE where polygons are expected"],
)
def test_what_is_meant_is_painted_and_boxed(tmp_path: Path, meant: Any, halves: list[str]) -> None:
    mask = np.zeros((20, 30), bool)
    mask[:, :15], mask[:, 15:] = "left" in halves, "right" in halves
    boxes = {"left": (0.0, 0.0, 0.5, 1.0), "right": (0.5, 0.0, 1.0, 1.0)}
    for sample in samples_of(tmp_path, ref(ann_id=meant)):
        color = next(color for color in segmentation.COLORS if color in sample.instruction)
        wanted = segmentation.paint(PICTURE, mask, color).astype(int)
        assert not sample.error and np.abs(images.decode(sample.target) - wanted).mean() < 3
        assert sample.boxes == tuple(boxes[half] for half in halves)


@pytest.mark.parametrize(
    ("meant", "kinds", "name"),
    [
        (5, {5: 1, 6: 2}, "bus"),
        ([5], {5: 1, 6: 2}, "bus"),
        (5, {5: 1, 6: 1}, ""),
        (5, {5: 1, 8: 1}, ""),
        ([5, 6], {5: 1, 6: 2}, ""),
        ([-1], {5: 1}, ""),
        (5, {5: 3}, ""),
        (5, {5: [1]}, ""),
        (5, {}, ""),
    ],
    ids=["one", "list of one", "two", "one and a crowd", "several", "none", "no such", "a list", "no category"],
)
def test_an_object_that_is_the_only_one_of_its_category_is_plainly_called_so(
    tmp_path: Path, meant: Any, kinds: dict[int, Any], name: str
) -> None:
    instances = known()
    for number, kind in kinds.items():
        instances.annotations[number]["category_id"] = kind
    instances.categories.update({1: {"id": 1, "name": "bus"}, 2: {"id": 2, "name": "chair"}})
    for sample in samples_of(tmp_path, ref(ann_id=meant), instances):
        said = next(text for text in ("left half", "the half before") if text in sample.instruction)
        assert sample.plain == (sample.instruction.replace(said, f"the {name}") if name else "")


def test_every_sentence_that_differs_and_can_be_read_becomes_a_row(tmp_path: Path) -> None:
    said = ["left half", "", "the half before", "\ufffd", " left half ", "what is not right"]
    samples = samples_of(tmp_path, ref(sentences=[{"sent": text} for text in said]))
    assert [sample.id for sample in samples] == [f"refcoco/train/3-{place}" for place in range(3)]
    for sample, text in zip(samples, ["left half", "the half before", "what is not right"], strict=True):
        assert text in sample.instruction
    assert len({sample.source for sample in samples}) == 1


def test_where_nothing_is_meant_the_target_equals_the_source(tmp_path: Path) -> None:
    samples = samples_of(tmp_path, ref(ann_id=[-1], no_target=True))
    assert len(samples) == 2
    for sample in samples:
        assert not sample.error and sample.source and sample.source == sample.target and not sample.boxes


def test_the_same_reference_is_asked_the_same_again(tmp_path: Path) -> None:
    assert samples_of(tmp_path, ref()) == samples_of(tmp_path, ref())
    asked = {samples_of(tmp_path, ref(ref_id=number))[0].instruction for number in range(20)}
    assert len(asked) > 10


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"image_id": 4}, "image_id 4 is not in instances.json"),
        ({"ann_id": 4}, "ann_id 4 is not in instances.json with image_id 1"),
        ({"ann_id": 7}, "ann_id 7 is not in instances.json with image_id 1"),
        ({"ann_id": [5, 4]}, r"ann_id \[5, 4\] is not in instances.json"),
        ({"ann_id": []}, r"ann_id \[\] is not in instances.json"),
        ({"ann_id": [8]}, r"ann_id \[8\] means crowds only"),
        ({"ann_id": 9}, "segmentation: found 'LEFT'; write a list of polygons or an RLE"),
        ({"sentences": []}, "found no sentence that can be read"),
        ({"sentences": [{"sent": "\ufffd"}, {"sent": " "}]}, "found no sentence that can be read"),
        ({"sentences": None}, "found no sentences"),
        ({"ref_id": None}, "found no ref_id"),
        ({"ref_id": [3]}, "found no ref_id"),
        ({"image_id": [1]}, r"image_id \[1\] is not in instances.json"),
    ],
)
def test_a_bad_reference_becomes_one_bad_row(tmp_path: Path, changed: dict, found: str) -> None:
    (sample,) = samples_of(tmp_path, ref(**changed))
    with pytest.raises(rows.BadRow, match=found):
        raise rows.BadRow(sample.error)
    assert sample.error.startswith(f"{sample.id}: ") and not sample.source


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"file_name": "gone.jpg"}, "train2014/gone.jpg: no such file"),
        ({"file_name": "cut.jpg"}, "train2014/cut.jpg: found a damaged JPEG"),
        ({"file_name": "../other.jpg"}, "found the path '../other.jpg'; write one relative to the corpus's folder"),
        ({"height": 21}, "found (20, 30) pixels, instances.json says (21, 30)"),
        ({"height": None}, "no name and size of the picture"),
    ],
)
def test_a_bad_picture_becomes_one_bad_row(tmp_path: Path, changed: dict, found: str) -> None:
    (tmp_path / "train2014").mkdir()
    (tmp_path / "train2014" / "cut.jpg").write_bytes(images.encode_jpeg(PICTURE)[:-60])
    (sample,) = samples_of(tmp_path, ref(), known(**changed))
    assert found in sample.error


def test_a_reference_that_stands_twice_is_taken_once() -> None:
    joined = referring.join("refcoco", "train", "refs.p", [ref(), ref(ann_id=6), ref(ref_id=4)], known())
    assert [one.id for one in joined] == ["refcoco/train/3", "refcoco/train/at-1", "refcoco/train/4"]
    assert [one.error for one in joined] == ["", "ref_id 3 stands twice", ""]


@pytest.mark.parametrize(
    ("refs", "found"),
    [
        ({}, "refs.p: found a dict; it holds a list of dicts with 'split'"),
        ([1], "found a list; it holds a list of dicts"),
        ([], "has no references of split 'train'; found nothing"),
    ],
)
def test_what_is_no_list_of_references_is_refused(refs: Any, found: str) -> None:
    with pytest.raises(rows.CorpusError, match=found):
        referring.join("refcoco", "train", "refs.p", refs, known())
