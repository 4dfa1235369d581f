import random
import re
from pathlib import Path

import numpy as np
import pytest

from fireedit.platform import images
from fireedit.platform.data.corpora import cocostuff, instances, rows, segmentation, stuff_json
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


def test_our_writer_is_read_back(corpus: Path) -> None:
    labels = cocostuff.read_labels(str(corpus))
    names = cocostuff.picture_names(str(corpus), "train")
    assert names == [f"{number:012d}" for number in range(1000, 1040)]
    for name in names:
        written = images.decode((corpus / "images" / "train2017" / f"{name}.jpg").read_bytes())
        for number, sample in enumerate(cocostuff.read_mapped(str(corpus), "train", labels, [name])):
            assert sample.id == f"cocostuff/train2017/{name}-{number}" and sample.task == "edit" and not sample.error
            assert np.abs(images.decode(sample.source).astype(int) - written).max() < 40


def test_the_target_is_painted_where_the_map_says(corpus: Path) -> None:
    labels = cocostuff.read_labels(str(corpus))
    painted = kept = 0
    for sample in cocostuff.read(str(corpus)):
        name = sample.id.removeprefix("cocostuff/train2017/").partition("-")[0]
        label_map = images.decode_labels((corpus / "annotations" / "train2017" / f"{name}.png").read_bytes())
        present = [value for value in np.unique(label_map).tolist() if value in labels]
        here = [value for value in present if re.search(rf"the {labels[value]}\b", sample.instruction)]
        if not here:
            assert sample.source == sample.target and not sample.boxes
            kept += 1
            continue
        rest = sample.instruction.replace(f"the {labels[here[0]]}", "")
        color = next(color for color in segmentation.COLORS if re.search(rf"\b{color}\b", rest))
        source, target = images.decode(sample.source), images.decode(sample.target)
        wanted = segmentation.paint(source, label_map == here[0], color)
        assert np.abs(target.astype(int) - wanted).mean() < 6
        assert sample.boxes == (segmentation.box(label_map == here[0]),)
        painted += 1
    assert painted > 80 and 16 < kept < 50


def test_the_same_picture_is_asked_the_same_again_whatever_is_read_beside_it(corpus: Path) -> None:
    labels = cocostuff.read_labels(str(corpus))
    alone = list(cocostuff.read_mapped(str(corpus), "train", labels, ["000000001003"]))
    assert len(alone) == cocostuff.REQUESTS_PER_PICTURE and alone == list(cocostuff.read(f"file://{corpus}"))[12:16]


def test_one_request_in_five_is_for_a_class_that_is_truly_absent() -> None:
    label_map = np.full((4, 4), 255, np.uint8)
    label_map[0] = 0
    label_map[1] = 91
    absent = 0
    for seed in range(2000):
        value = cocostuff.draw_class(random.Random(seed), label_map, LABELS, asked=[0, 91] if seed % 2 else [1])
        absent += value == 1
        assert value in (0, 1, 91), "hat is listed by COCO but never labelled: not absent"
    assert 330 < absent < 470


def test_the_requests_of_a_picture_are_for_different_classes_as_far_as_there_are(tmp_path: Path) -> None:
    stripes = np.repeat(np.arange(5, dtype=np.uint8), 4)[:, None].repeat(20, axis=1)
    labels = {value: f"stripe {value}" for value in range(5)}
    orders = set()
    for number in range(12):
        name, few = f"many-{number}", f"few-{number}"
        put(tmp_path, name, np.full((20, 20, 3), 99, np.uint8), stripes)
        put(tmp_path, few, np.full((20, 20, 3), 99, np.uint8), np.minimum(stripes, 1))
        many = list(cocostuff.read_mapped(str(tmp_path), "train", labels, [name]))
        asked = [next(text for text in labels.values() if text in sample.instruction) for sample in many]
        assert len(set(asked)) == 4 and len({sample.id for sample in many}) == 4
        orders.add(tuple(asked))
        only = {0: "stripe 0", 1: "stripe 1"}
        again = list(cocostuff.read_mapped(str(tmp_path), "train", only, [few]))
        assert len(again) == 4 and all(sample.boxes for sample in again)
        assert all(any(text in sample.instruction for sample in again[:2]) for text in only.values())
    assert len(orders) > 6, "every picture has an order of its own"


def test_a_picture_without_labels_is_asked_once_to_be_kept(tmp_path: Path) -> None:
    put(tmp_path, "blank", np.full((4, 4, 3), 99, np.uint8), np.full((4, 4), 255, np.uint8))
    (sample,) = cocostuff.read_mapped(str(tmp_path), "train", LABELS, ["blank"])
    assert sample.id == "cocostuff/train2017/blank-0" and sample.instruction in segmentation.KEEP_REQUESTS
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
    for sample in cocostuff.read_mapped(str(tmp_path), "train", {0: "left side", 1: "right side"}, names):
        source, target = images.decode(sample.source), images.decode(sample.target)
        assert source.shape == target.shape == (16, 16, 3)
        changed = np.abs(source.astype(int) - target).max(-1) > 40
        bright = source[..., 0] > 100
        assert not (changed & (bright if "the left side" in sample.instruction else ~bright)).any()


def test_a_bad_picture_becomes_one_bad_row_that_names_the_file(corpus: Path, tmp_path: Path) -> None:
    good = np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)
    for name in ("cut", "mapless", "pictureless", "other_size", "colourful"):
        put(tmp_path, name, good, np.zeros((16, 16), np.uint8))
    pictures, maps = tmp_path / "images" / "train2017", tmp_path / "annotations" / "train2017"
    (pictures / "cut.jpg").write_bytes((pictures / "cut.jpg").read_bytes()[:-100])
    (maps / "mapless.png").unlink()
    (pictures / "pictureless.jpg").unlink()
    (maps / "other_size.png").write_bytes(images.encode_png(np.zeros((8, 16), np.uint8)))
    (maps / "colourful.png").write_bytes(images.encode_png(good))
    errors = {}
    for name in cocostuff.picture_names(str(tmp_path), "train"):
        (sample,) = cocostuff.read_mapped(str(tmp_path), "train", LABELS, [name])
        errors[name] = sample.error
    assert errors["cut"].startswith("cocostuff/train2017/cut: images/train2017/cut.jpg: found a damaged JPEG")
    assert errors["mapless"].endswith("/mapless: annotations/train2017/mapless.png: no such file")
    assert errors["pictureless"].endswith("/pictureless: images/train2017/pictureless.jpg: no such file")
    assert "other_size.jpg: found (16, 16) pixels, its labels have (8, 16)" in errors["other_size"]
    assert "colourful.png: found a PNG of mode RGB" in errors["colourful"]


def test_the_json_form_asks_for_stuff_alone(tmp_path: Path) -> None:
    writer.write_json(tmp_path, range(30), 32, world.TRAIN)
    names = set(coco.class_names().values())
    asked = set()
    for index, sample in enumerate(cocostuff.read(f"file://{tmp_path}")):
        seed, number = divmod(index, cocostuff.REQUESTS_PER_PICTURE)
        assert sample.id == f"cocostuff/train2017/{seed:012d}-{number}" and not sample.error
        assert (sample.source == sample.target) == (not sample.boxes)
        asked |= {name for name in names if re.search(rf"\bthe {name}\b", sample.instruction)}
    assert asked <= {name for number, name in coco.class_names().items() if number >= coco.FIRST_STUFF}
    assert len(asked) > 5


def test_both_forms_ask_the_same_of_a_picture_of_stuff(tmp_path: Path) -> None:
    writer.write_json(tmp_path, range(4), 32, world.TRAIN)
    labels = {number - 1: name for number, name in coco.class_names().items() if number >= coco.FIRST_STUFF}
    listed, file = list(cocostuff.read(str(tmp_path))), str(tmp_path / "annotations" / "stuff_train2017.json")
    for seed, picture in enumerate(stuff_json.pictures(instances.read_file(file))):
        put_map(tmp_path, f"{seed:012d}", picture.label_map())
    names = [f"{seed:012d}" for seed in range(4)]
    assert list(cocostuff.read_mapped(str(tmp_path), "train", labels, names)) == listed


def test_a_folder_that_is_not_cocostuff_is_refused(tmp_path: Path) -> None:
    wanted = "annotations/stuff_train2017.json is missing: .*, unless the label maps lie in annotations/train2017/"
    with pytest.raises(rows.CorpusError, match=wanted):
        cocostuff.read(str(tmp_path))
    (tmp_path / "annotations" / "train2017").mkdir(parents=True)
    with pytest.raises(rows.CorpusError, match="labels.txt is missing: the class list of COCO-Stuff"):
        cocostuff.read(str(tmp_path))
    (tmp_path / "labels.txt").write_text("person\n")
    with pytest.raises(rows.CorpusError, match="line 1: found 'person'; write `id: name`"):
        cocostuff.read(str(tmp_path))
    (tmp_path / "labels.txt").write_text("0: unlabeled\n1: person")
    with pytest.raises(rows.CorpusError, match="images/train2017 is missing: the pictures of COCO 2017"):
        cocostuff.read(str(tmp_path))
    (tmp_path / "images" / "train2017").mkdir(parents=True)
    with pytest.raises(rows.CorpusError, match="hold no .jpg and no .png; unpack train2017.zip there"):
        cocostuff.read(str(tmp_path))


def test_a_corpus_reads_every_picture_in_order(corpus: Path) -> None:
    labels, names = cocostuff.read_labels(str(corpus)), cocostuff.picture_names(str(corpus), "train")
    expected = list(cocostuff.read_mapped(str(corpus), "train", labels, names))
    assert list(cocostuff.read(f"file://{corpus}")) == expected
    assert len({sample.id for sample in expected}) == len(expected) == len(names) * cocostuff.REQUESTS_PER_PICTURE
