import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from fireedit.platform.data.corpora import instances, rows

MASK = np.zeros((6, 8), bool)
MASK[1:4, 2:7] = True
RUNS = coco_mask.encode(np.asfortranarray(MASK.astype(np.uint8)))
SQUARE = [2.0, 1.0, 7.0, 1.0, 7.0, 4.0, 2.0, 4.0]


@pytest.mark.parametrize(
    "segmentation",
    [
        [SQUARE],
        [SQUARE, [3.0, 1.0, 7.0, 1.0, 7.0, 4.0, 3.0, 4.0]],
        [[], SQUARE, [0, 0, 5, 5], [0.0, 5.0]],
        {"size": [6, 8], "counts": RUNS["counts"].decode()},
        {"size": [6, 8], "counts": [13, 3, 3, 3, 3, 3, 3, 3, 3, 3, 8]},
    ],
    ids=["polygon", "overlapping polygons", "parts without an area", "compressed RLE", "plain RLE"],
)
def test_every_published_form_draws_the_same_mask(segmentation: object) -> None:
    np.testing.assert_array_equal(instances.draw(segmentation, 6, 8), MASK)


@pytest.mark.parametrize("segmentation", [[], [[]], [[0, 0, 5, 5]]])
def test_an_outline_without_an_area_is_an_empty_mask(segmentation: object) -> None:
    assert not instances.draw(segmentation, 6, 8).any()


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (None, "found None"),
        ([SQUARE[:-1]], "polygon.*write an x and a y for every corner"),
        ([[0, 0, 5, 5, "a", 1]], "polygon.*write an x and a y for every corner"),
        ([[0, 0, 1e9, 0, 1e9, 1e9]], "a corner is far outside the 6 x 8 picture"),
        ([[0, 0, float("nan"), 0, 1, 1]], "a corner is far outside"),
        ({"size": [8, 6], "counts": [48]}, r"found an RLE of size \[8, 6\], not \[6, 8\]"),
        ({"size": [6, 8], "counts": [47]}, "counts do not add up to 6 x 8 pixels"),
        ({"size": [6, 8], "counts": [-1, 49]}, "counts do not add up"),
        ({"size": [6, 8], "counts": "9999999"}, "Invalid RLE mask"),
    ],
)
def test_a_damaged_outline_is_a_bad_row(segmentation: object, message: str) -> None:
    with pytest.raises(rows.BadRow, match=message):
        instances.draw(segmentation, 6, 8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "found no list of 'images' with ids"),
        (json.dumps({"images": [{"id": 1}]}), "found no list of 'annotations' with ids"),
        (json.dumps({"images": [], "annotations": [{"id": 5}, {"id": 5}]}), "id 5 stands twice in 'annotations'"),
        (json.dumps({"images": [], "annotations": []}), "found no list of 'categories' with ids"),
    ],
)
def test_a_file_that_is_not_cocos_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "instances.json").write_text(content)
    with pytest.raises(rows.CorpusError, match=message):
        instances.read_file(str(tmp_path / "instances.json"))
