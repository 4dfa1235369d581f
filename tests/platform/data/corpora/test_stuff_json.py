import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from fireedit.platform import images
from fireedit.platform.data.corpora import cocostuff, instances, rows, stuff_json

LEFT = np.zeros((4, 8), bool)
LEFT[:, :4] = True
RUNS = coco_mask.encode(np.asfortranarray(LEFT.astype(np.uint8)))["counts"].decode()
POLYGON = [[0.0, 0.0, 4.0, 0.0, 4.0, 4.0, 0.0, 4.0]]


def content(**changed: Any) -> dict[str, Any]:
    """One picture, its left half labelled as grass and its right one as other."""
    plain = {
        "images": [{"id": 7, "file_name": "000000000007.jpg", "height": 4, "width": 8}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 124, "segmentation": {"size": [4, 8], "counts": RUNS}},
            {"id": 2, "image_id": 7, "category_id": 183, "segmentation": {"size": [4, 8], "counts": [16, 16]}},
        ],
        "categories": [{"id": 124, "name": "grass"}, {"id": 183, "name": "other"}],
    }
    return plain | changed


def put(folder: Path, listed: dict[str, Any]) -> Path:
    for name in ("annotations", "images/train2017"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "images" / "train2017" / "000000000007.jpg").write_bytes(
        images.encode_jpeg(np.full((4, 8, 3), 99, np.uint8))
    )
    (folder / "annotations" / "stuff_train2017.json").write_text(json.dumps(listed))
    return folder / "annotations" / "stuff_train2017.json"


def opened(folder: Path, listed: dict[str, Any]) -> list[stuff_json.Outlined]:
    return stuff_json.pictures(instances.read_file(str(put(folder, listed))))


@pytest.mark.parametrize(
    "segmentation",
    [{"size": [4, 8], "counts": RUNS}, {"size": [4, 8], "counts": [0, 16, 16]}, POLYGON],
    ids=["compressed RLE", "plain RLE", "polygons where an RLE is expected"],
)
def test_every_form_of_outline_is_drawn_and_other_is_left_unlabelled(tmp_path: Path, segmentation: Any) -> None:
    listed = content()
    listed["annotations"][0]["segmentation"] = segmentation
    (picture,) = opened(tmp_path, listed)
    np.testing.assert_array_equal(picture.label_map(), np.where(LEFT, 123, 255))


def test_only_named_stuff_is_asked_for(tmp_path: Path) -> None:
    path = str(put(tmp_path, content()))
    assert stuff_json.class_names(path, instances.read_file(path)) == {123: "grass"}
    for sample in cocostuff.read(str(tmp_path)):
        assert not sample.error and ("the grass" in sample.instruction) == bool(sample.boxes)
        for left, top, right, bottom in sample.boxes:
            assert left == 0.0 and (top, bottom) == (0.0, 1.0) and right <= 1.0


def test_a_picture_without_labels_is_asked_once_to_be_kept(tmp_path: Path) -> None:
    put(tmp_path, content(annotations=[]))
    (sample,) = cocostuff.read(str(tmp_path))
    assert sample.source == sample.target and not sample.boxes and not sample.error


def test_a_picture_of_another_size_than_listed_is_one_bad_row(tmp_path: Path) -> None:
    put(tmp_path, content(images=[{"id": 7, "file_name": "000000000007.jpg", "height": 8, "width": 4}], annotations=[]))
    (sample,) = cocostuff.read(str(tmp_path))
    assert "images/train2017/000000000007.jpg: found (4, 8) pixels, its labels have (8, 4)" in sample.error


@pytest.mark.parametrize(
    ("image", "found"),
    [
        ({"file_name": None}, "image 7: found no name and size"),
        ({"height": 0}, "image 7: found no name and size"),
        ({"width": 10**12}, "image 7: found no name and size"),
        ({"file_name": "../7.jpg"}, "write one relative to the corpus's folder"),
    ],
)
def test_a_damaged_record_of_a_picture_is_a_bad_row(tmp_path: Path, image: dict[str, Any], found: str) -> None:
    (picture,) = opened(tmp_path, content(images=[content()["images"][0] | image]))
    assert picture.name == "image-7" and found in picture.error


@pytest.mark.parametrize(
    ("annotation", "found"),
    [
        ({"category_id": 92}, "annotation 1: found the category 92, which is not listed"),
        ({"category_id": [124]}, r"annotation 1: found the category \[124\], which is not listed"),
        ({"segmentation": None}, "segmentation: found None; write a list of polygons or an RLE"),
        ({"segmentation": {"size": [8, 4], "counts": RUNS}}, "found an RLE of size"),
    ],
)
def test_a_damaged_annotation_spoils_its_picture(tmp_path: Path, annotation: dict[str, Any], found: str) -> None:
    (picture,) = opened(tmp_path, content(annotations=[content()["annotations"][0] | annotation]))
    with pytest.raises(rows.BadRow, match=found):
        picture.label_map()


def test_an_annotation_of_no_listed_picture_is_a_bad_row_of_its_own(tmp_path: Path) -> None:
    good, stray = opened(tmp_path, content(annotations=[content()["annotations"][0] | {"image_id": 8}]))
    assert not good.error and stray.name == "annotation-1"
    assert stray.error == "annotation 1: found the image_id 8, which is not listed"


def test_a_picture_that_is_listed_twice_is_taken_once(tmp_path: Path) -> None:
    image = content()["images"][0]
    good, again = opened(tmp_path, content(images=[image, image | {"id": 8}]))
    assert good.name == "000000000007" and not good.error
    assert again.name == "image-8" and again.error == "image 8: 000000000007.jpg is listed twice"
    put(tmp_path, content(images=[image, image]))
    with pytest.raises(rows.CorpusError, match="id 7 stands twice in 'images'; fetch it again"):
        cocostuff.read(str(tmp_path))


@pytest.mark.parametrize("category", [{"id": 124}, {"id": 124, "name": 5}, {"id": 999, "name": "grass"}])
def test_a_category_without_a_name_is_refused(tmp_path: Path, category: dict[str, Any]) -> None:
    put(tmp_path, content(categories=[category]))
    with pytest.raises(rows.CorpusError, match=r"found the category \d+ called .*; fetch the published file"):
        cocostuff.read(str(tmp_path))
