import functools
import json
import random
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from fireedit.platform import images
from fireedit.platform.data.corpora import cocostuff, instances, masks, rows
from fireedit.platform.data.sample import Sample
from fireedit.platform.labels import decode_labels
from fireedit.platform.scenes import world
from fireedit.platform.scenes.writers import coco
from fireedit.platform.scenes.writers import cocostuff as writer

LABELS = {0: "person", 1: "bicycle", 91: "banner", 25: "hat"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cocostuff")
    writer.write(folder, range(1000, 1040), 48, world.TRAIN)
    return folder


def put(folder: Path, name: str, picture: np.ndarray, label_map: np.ndarray) -> None:
    (folder / "images" / "train2017").mkdir(parents=True, exist_ok=True)
    (folder / "images" / "train2017" / f"{name}.jpg").write_bytes(images.encode_jpeg(picture))
    put_map(folder, name, label_map)


def put_map(folder: Path, name: str, label_map: np.ndarray) -> None:
    (folder / "annotations" / "train2017").mkdir(parents=True, exist_ok=True)
    (folder / "annotations" / "train2017" / f"{name}.png").write_bytes(images.encode_png(label_map))


def mapped(folder: Path, labels: dict[int, str], *names: str) -> list[Sample]:
    items = [(f"cocostuff/train2017/{name}", name) for name in names]
    return list(rows.read_items(functools.partial(cocostuff.read_mapped, str(folder), "train", labels), items))


def test_a_written_corpus_is_read_back(corpus: Path) -> None:
    labels = cocostuff.read_labels(str(corpus))
    names = cocostuff.picture_names(str(corpus), "train", Counter())
    assert names == [f"{number:012d}" for number in range(1000, 1040)]
    for name in names:
        written = images.decode((corpus / "images" / "train2017" / f"{name}.jpg").read_bytes())
        for number, sample in enumerate(mapped(corpus, labels, name)):
            assert sample.id == f"cocostuff/train2017/{name}-{number}" and sample.task == "edit" and not sample.error
            assert np.abs(images.decode(sample.source).astype(int) - written).max() < 40


def test_the_target_is_painted_where_the_map_says(corpus: Path) -> None:
    labels = cocostuff.read_labels(str(corpus))
    painted = kept = 0
    for sample in cocostuff.read(str(corpus)):
        name = sample.id.removeprefix("cocostuff/train2017/").partition("-")[0]
        label_map = decode_labels((corpus / "annotations" / "train2017" / f"{name}.png").read_bytes())
        present = [value for value in np.unique(label_map).tolist() if value in labels]
        here = [value for value in present if re.search(rf"the {labels[value]}\b", sample.instruction)]
        if not here:
            assert sample.source == sample.target and not sample.boxes
            kept += 1
            continue
        rest = sample.instruction.replace(f"the {labels[here[0]]}", "")
        color = next(color for color in masks.COLORS if re.search(rf"\b{color}\b", rest))
        source, target = images.decode(sample.source), images.decode(sample.target)
        wanted = masks.paint(source, label_map == here[0], color)
        assert np.abs(target.astype(int) - wanted).mean() < 6
        assert sample.boxes == (masks.box(label_map == here[0]),)
        painted += 1
    assert painted > 80 and 16 < kept < 50


def test_a_picture_makes_the_same_requests_whatever_is_read_beside_it(corpus: Path) -> None:
    labels = cocostuff.read_labels(str(corpus))
    alone = mapped(corpus, labels, "000000001003")
    assert len(alone) == cocostuff.REQUESTS_PER_PICTURE and alone == list(cocostuff.read(f"file://{corpus}"))[12:16]


def test_one_request_in_five_is_for_a_class_that_is_truly_absent() -> None:
    label_map = np.full((4, 4), 255, np.uint8)
    label_map[0] = 0
    label_map[1] = 91
    absent = 0
    for seed in range(2000):
        value = cocostuff.draw_class(random.Random(seed), label_map, LABELS, used=[0, 91] if seed % 2 else [1])
        absent += value == 1
        assert value in (0, 1, 91), "hat is listed by COCO but never labeled: not absent"
    assert 330 < absent < 470


def test_the_requests_of_a_picture_are_for_different_classes_as_far_as_there_are(tmp_path: Path) -> None:
    stripes = np.repeat(np.arange(5, dtype=np.uint8), 4)[:, None].repeat(20, axis=1)
    labels = {value: f"stripe {value}" for value in range(5)}
    orders = set()
    for number in range(12):
        name, few = f"many-{number}", f"few-{number}"
        put(tmp_path, name, np.full((20, 20, 3), 99, np.uint8), stripes)
        put(tmp_path, few, np.full((20, 20, 3), 99, np.uint8), np.minimum(stripes, 1))
        many = mapped(tmp_path, labels, name)
        named = [next(text for text in labels.values() if text in sample.instruction) for sample in many]
        assert len(set(named)) == 4 and len({sample.id for sample in many}) == 4
        orders.add(tuple(named))
        only = {0: "stripe 0", 1: "stripe 1"}
        again = mapped(tmp_path, only, few)
        assert len(again) == 4 and all(sample.boxes for sample in again)
        assert all(any(text in sample.instruction for sample in again[:2]) for text in only.values())
    assert len(orders) > 6, "every picture has an order of its own"


def test_a_picture_without_labels_makes_one_request_to_keep_it(tmp_path: Path) -> None:
    put(tmp_path, "blank", np.full((4, 4, 3), 99, np.uint8), np.full((4, 4), 255, np.uint8))
    (sample,) = mapped(tmp_path, LABELS, "blank")
    assert sample.id == "cocostuff/train2017/blank-0" and sample.instruction in masks.KEEP_REQUESTS
    assert sample.source and sample.source == sample.target and not sample.boxes


def test_the_square_slides_along_the_long_side() -> None:
    windows = [cocostuff.square(random.Random(seed), 30, 100) for seed in range(300)]
    assert {(rows_.start, rows_.stop) for rows_, _ in windows} == {(0, 30)}
    lefts = [columns.start for _, columns in windows]
    assert min(lefts) == 0 and max(lefts) == 70
    assert all(columns.stop - columns.start == 30 for _, columns in windows)


def test_picture_and_map_are_cut_alike(tmp_path: Path) -> None:
    picture = np.zeros((16, 64, 3), np.uint8)
    picture[:, 32:] = 200
    label_map = np.where(picture[..., 0] > 100, 1, 0).astype(np.uint8)
    names = [f"{number:012d}" for number in range(12)]
    for name in names:
        put(tmp_path, name, picture, label_map)
    for sample in mapped(tmp_path, {0: "left side", 1: "right side"}, *names):
        source, target = images.decode(sample.source), images.decode(sample.target)
        assert source.shape == target.shape == (16, 16, 3)
        changed = np.abs(source.astype(int) - target).max(-1) > 40
        bright = source[..., 0] > 100
        assert not (changed & (bright if "the left side" in sample.instruction else ~bright)).any()


def test_a_map_that_does_not_belong_to_its_picture_is_one_bad_row(tmp_path: Path) -> None:
    picture, label_map = np.full((16, 16, 3), 99, np.uint8), np.zeros((16, 16), np.uint8)
    put(tmp_path, "half", picture, label_map[:8])
    put(tmp_path, "unlisted", picture, label_map + 150)
    half, unlisted = mapped(tmp_path, LABELS, "half", "unlisted")
    assert "half.jpg: found (16, 16) pixels, its labels have (8, 16)" in half.error
    assert "unlisted.png: found the label 150, but labels.txt ends at 91" in unlisted.error


def test_companions_and_clutter_beside_maps_and_pictures_are_counted(corpus: Path, tmp_path: Path) -> None:
    shutil.copytree(corpus, tmp_path, dirs_exist_ok=True)
    maps, pictures = tmp_path / "annotations" / "train2017", tmp_path / "images" / "train2017"
    for number in range(1000, 1006):
        label_map = decode_labels((maps / f"{number:012d}.png").read_bytes())
        put_map(tmp_path, f"{number:012d}_labelTrainIds", label_map // 2)
    (pictures / "000000001000_thumb.jpg").write_bytes(b"no data")
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._000000001000.png"):
        (maps / name).write_bytes(b"no data")
    read = cocostuff.read(str(tmp_path))
    assert list(read) == list(cocostuff.read(str(corpus)))
    assert read.skipped == {rows.COMPANION_REASON: 7, rows.CLUTTER_REASON: 4}


def test_labels_may_begin_with_a_byte_order_mark_and_end_with_blank_lines(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_bytes(b"\xef\xbb\xbf0: unlabeled\r\n1: person\r\n\r\n")
    assert cocostuff.read_labels(str(tmp_path)) == {0: "person"}


def test_the_json_form_makes_requests_for_stuff_alone(tmp_path: Path) -> None:
    writer.write_json(tmp_path, range(30), 32, world.TRAIN)
    names = set(coco.class_names().values())
    named = set()
    for index, sample in enumerate(cocostuff.read(f"file://{tmp_path}")):
        seed, number = divmod(index, cocostuff.REQUESTS_PER_PICTURE)
        assert sample.id == f"cocostuff/train2017/{seed:012d}-{number}" and not sample.error
        assert (sample.source == sample.target) == (not sample.boxes)
        named |= {name for name in names if re.search(rf"\bthe {name}\b", sample.instruction)}
    assert named <= {name for number, name in coco.class_names().items() if number >= coco.FIRST_STUFF}
    assert len(named) > 5


def test_both_forms_make_the_same_requests_for_a_picture_of_stuff(tmp_path: Path) -> None:
    writer.write_json(tmp_path, range(4), 32, world.TRAIN)
    labels = {number - 1: name for number, name in coco.class_names().items() if number >= coco.FIRST_STUFF}
    listed, file = list(cocostuff.read(str(tmp_path))), str(tmp_path / "annotations" / "stuff_train2017.json")
    for seed, (_, picture) in enumerate(cocostuff.outlined_pictures(instances.read_file(file))):
        put_map(tmp_path, f"{seed:012d}", picture.label_map())
    names = [f"{seed:012d}" for seed in range(4)]
    assert mapped(tmp_path, labels, *names) == listed


def test_a_folder_that_is_not_cocostuff_is_refused(tmp_path: Path) -> None:
    wanted = "annotations/stuff_train2017.json is missing: .*, unless the label maps are in annotations/train2017/"
    with pytest.raises(rows.CorpusError, match=wanted):
        cocostuff.read(str(tmp_path))
    (tmp_path / "annotations" / "train2017").mkdir(parents=True)
    with pytest.raises(rows.CorpusError, match="labels.txt is missing"):
        cocostuff.read(str(tmp_path))
    (tmp_path / "labels.txt").write_text("person\n")
    with pytest.raises(rows.CorpusError, match="line 1: found 'person'; write `id: name`"):
        cocostuff.read(str(tmp_path))
    (tmp_path / "labels.txt").write_text("0: unlabeled\n1: person")
    with pytest.raises(rows.CorpusError, match="images/train2017 is missing"):
        cocostuff.read(str(tmp_path))
    (tmp_path / "images" / "train2017").mkdir(parents=True)
    with pytest.raises(rows.CorpusError, match="hold no .jpg and no .png"):
        cocostuff.read(str(tmp_path))


LEFT = np.zeros((4, 8), bool)
LEFT[:, :4] = True
RUNS = coco_mask.encode(np.asfortranarray(LEFT.astype(np.uint8)))["counts"].decode()


def content(**changed: Any) -> dict[str, Any]:
    """Picture whose left half is labeled as grass, the right one as other."""
    plain = {
        "images": [{"id": 7, "file_name": "000000000007.jpg", "height": 4, "width": 8}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 124, "segmentation": {"size": [4, 8], "counts": RUNS}},
            {"id": 2, "image_id": 7, "category_id": 183, "segmentation": {"size": [4, 8], "counts": [16, 16]}},
        ],
        "categories": [{"id": 124, "name": "grass"}, {"id": 183, "name": "other"}],
    }
    return plain | changed


def put_json(folder: Path, listed: dict[str, Any]) -> Path:
    for name in ("annotations", "images/train2017"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "images" / "train2017" / "000000000007.jpg").write_bytes(
        images.encode_jpeg(np.full((4, 8, 3), 99, np.uint8))
    )
    (folder / "annotations" / "stuff_train2017.json").write_text(json.dumps(listed))
    return folder / "annotations" / "stuff_train2017.json"


def opened(folder: Path, listed: dict[str, Any]) -> list[rows.Item]:
    return cocostuff.outlined_pictures(instances.read_file(str(put_json(folder, listed))))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ({"file_name": None}, "image 7: found no name and size"),
        ({"height": 0}, "image 7: found no name and size"),
        ({"width": 10**12}, "image 7: found no name and size"),
        ({"file_name": "../7.jpg"}, "write one relative to the corpus's folder"),
    ],
)
def test_a_damaged_record_of_a_picture_is_a_bad_row(tmp_path: Path, image: dict[str, Any], message: str) -> None:
    ((name, bad),) = opened(tmp_path, content(images=[content()["images"][0] | image]))
    assert name == "image-7" and isinstance(bad, rows.BadRow) and message in str(bad)


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ({"category_id": 92}, "annotation 1: found the category 92"),
        ({"category_id": [124]}, "annotation 1: found the category [124]"),
        ({"segmentation": None}, "segmentation: found None"),
    ],
)
def test_a_damaged_annotation_spoils_its_picture(tmp_path: Path, annotation: dict[str, Any], message: str) -> None:
    put_json(tmp_path, content(annotations=[content()["annotations"][0] | annotation]))
    (bad,) = cocostuff.read(str(tmp_path))
    assert message in bad.error


def test_an_annotation_of_no_listed_picture_is_a_bad_row_of_its_own(tmp_path: Path) -> None:
    _, (name, stray) = opened(tmp_path, content(annotations=[content()["annotations"][0] | {"image_id": 8}]))
    assert name == "annotation-1" and str(stray) == "annotation 1: found the image_id 8, which is not listed"


def test_a_picture_that_is_listed_twice_is_taken_once(tmp_path: Path) -> None:
    image = content()["images"][0]
    (name, _), (again, bad) = opened(tmp_path, content(images=[image, image | {"id": 8}]))
    assert (name, again) == ("000000000007", "image-8")
    assert str(bad) == "image 8: 000000000007.jpg is listed twice"
    put_json(tmp_path, content(images=[image, image]))
    with pytest.raises(rows.CorpusError, match="id 7 stands twice in 'images'"):
        cocostuff.read(str(tmp_path))


@pytest.mark.parametrize("category", [{"id": 124}, {"id": 124, "name": 5}, {"id": 999, "name": "grass"}])
def test_a_category_without_a_name_is_refused(tmp_path: Path, category: dict[str, Any]) -> None:
    put_json(tmp_path, content(categories=[category]))
    with pytest.raises(rows.CorpusError, match=r"found the category \d+ called"):
        cocostuff.read(str(tmp_path))
