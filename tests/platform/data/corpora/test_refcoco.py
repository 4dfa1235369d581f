import functools
import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fireedit.platform import images
from fireedit.platform.data import catalog
from fireedit.platform.data.corpora import instances, masks, refcoco, rows
from fireedit.platform.data.corpora.instances import Instances
from fireedit.platform.data.sample import Sample
from fireedit.platform.scenes import referring as scenes
from fireedit.platform.scenes import world
from fireedit.platform.scenes.render import draw_scene
from fireedit.platform.scenes.writers import refcoco as writer

NAMES = ["refcoco", "refcoco+", "refcocog"]
NAME = "COCO_train2014_000000000001.jpg"
PICTURE = np.full((20, 30, 3), 128, np.uint8)
LEFT = [0.0, 0.0, 15.0, 0.0, 15.0, 20.0, 0.0, 20.0]
RIGHT = [15.0, 0.0, 30.0, 0.0, 30.0, 20.0, 15.0, 20.0]


@pytest.mark.parametrize("corpus", NAMES)
def test_a_written_corpus_is_read_back(tmp_path: Path, corpus: str) -> None:
    writer.write(tmp_path, range(1000, 1012), 48, world.TRAIN, corpus=corpus)
    references = refcoco.read_references(str(tmp_path), "train", corpus, Counter())
    sentences = [
        (f"{name}-{place}", text) for name, objects in references for place, text in enumerate(objects.sentences)
    ]
    assert len(sentences) > len(references) > 12 and len(dict(sentences)) == len(sentences)
    for (row_id, sentence), sample in zip(sentences, catalog.open_corpus(corpus, str(tmp_path)), strict=True):
        assert sample.id == row_id and sample.corpus == corpus and sample.task == "edit" and not sample.error
        assert sentence in sample.instruction
        assert sample.source != sample.target and len(sample.boxes) == 1


def test_refcoco_plus_names_no_places(tmp_path: Path) -> None:
    writer.write(tmp_path / "0", range(40), 32, world.TRAIN)
    writer.write(tmp_path / "plus", range(40), 32, world.TRAIN, corpus="refcoco+")
    plain, plus = (
        [
            sentence
            for _, objects in refcoco.read_references(str(tmp_path / name), "train", corpus, Counter())
            for sentence in objects.sentences
        ]
        for name, corpus in (("0", "refcoco"), ("plus", "refcoco+"))
    )
    assert any("left" in sentence for sentence in plain) and len(plus) > 40
    assert not [sentence for sentence in plus if "left" in sentence or "right" in sentence]


def test_the_suffix_of_a_references_file_name_is_not_followed(tmp_path: Path) -> None:
    writer.write(tmp_path, [7], 32, world.TRAIN)
    ref = pickle.loads((tmp_path / "refs(unc).p").read_bytes())[0]
    assert not (tmp_path / "train2014" / ref["file_name"]).exists()
    _, first = refcoco.read_references(str(tmp_path), "train", "refcoco", Counter())[0]
    assert first.file_name == "COCO_train2014_000000000007.jpg"


def test_splits_are_the_published_ones(tmp_path: Path) -> None:
    with pytest.raises(rows.CorpusError, match="refcocog has no split 'testA'"):
        refcoco.read(str(tmp_path), "testA", corpus="refcocog")
    writer.write(tmp_path, [7], 32, world.TRAIN)
    with pytest.raises(rows.CorpusError, match="has no references of split 'testA'; found train"):
        refcoco.read(str(tmp_path), "testA")


def test_pictures_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps([{"split": "train"}]))
    (tmp_path / "instances.json").write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    with pytest.raises(rows.CorpusError, match="train2014 is missing"):
        refcoco.read(str(tmp_path))


@pytest.fixture(scope="module")
def grefs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grefcoco")
    writer.write_grefcoco(folder, range(30), 48, world.TRAIN)
    return folder


def test_grefcoco_is_read_back(grefs: Path) -> None:
    counts = set()
    samples = list(refcoco.read(str(grefs), corpus="grefcoco"))
    for seed, (_, objects) in enumerate(refcoco.read_references(str(grefs), "train", "grefcoco", Counter())):
        reference = scenes.make_reference(world.TRAIN, seed)
        drawn = draw_scene(reference.scene, 48).masks
        sample = samples[seed]
        assert sample.id == f"grefcoco/train/{seed}-0" and not sample.error
        assert reference.expression.lower() in sample.instruction
        assert (sample.source == sample.target) == (not reference.ids)
        assert len(objects.outlines) == len(sample.boxes) == len(reference.ids)
        assert list(sample.boxes) == [masks.box(drawn[placed_id]) for placed_id in reference.ids]
        for outline, placed_id in zip(objects.outlines, reference.ids, strict=True):
            np.testing.assert_array_equal(instances.draw(outline, 48, 48), drawn[placed_id])
        counts.add(min(len(reference.ids), 2))
    assert counts == {0, 1, 2}


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


def samples_of(folder: Path, reference: dict[str, Any], objects: Instances | None = None) -> list[Sample]:
    (folder / "train2014").mkdir(exist_ok=True)
    if not (folder / "train2014" / NAME).exists():
        (folder / "train2014" / NAME).write_bytes(images.encode_jpeg(PICTURE))
    joined = refcoco.join("refcoco", "train", "refs.p", [reference], objects or known(), Counter())
    return list(rows.read_items(functools.partial(refcoco.read_requests, str(folder)), joined))


@pytest.mark.parametrize(
    ("meant", "halves"),
    [(5, ["left"]), ([6], ["right"]), ([5, 6], ["left", "right"]), ([5, 8], ["left"]), (8, ["right"])],
    ids=["one", "list of one", "union", "crowds are left out of a list", "an RLE for polygons"],
)
def test_the_objects_meant_are_painted_and_boxed(tmp_path: Path, meant: Any, halves: list[str]) -> None:
    mask = np.zeros((20, 30), bool)
    mask[:, :15], mask[:, 15:] = "left" in halves, "right" in halves
    boxes = {"left": (0.0, 0.0, 0.5, 1.0), "right": (0.5, 0.0, 1.0, 1.0)}
    for sample in samples_of(tmp_path, ref(ann_id=meant)):
        color = next(color for color in masks.COLORS if color in sample.instruction)
        wanted = masks.paint(PICTURE, mask, color).astype(int)
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
def test_the_only_object_of_a_category_is_named_by_it_in_the_plain_form(
    tmp_path: Path, meant: Any, kinds: dict[int, Any], name: str
) -> None:
    objects = known()
    for number, kind in kinds.items():
        objects.annotations[number]["category_id"] = kind
    objects.categories.update({1: {"id": 1, "name": "bus"}, 2: {"id": 2, "name": "chair"}})
    for sample in samples_of(tmp_path, ref(ann_id=meant), objects):
        sentence = next(text for text in ("left half", "the half before") if text in sample.instruction)
        assert sample.plain == (sample.instruction.replace(sentence, f"the {name}") if name else "")


def test_every_sentence_that_differs_and_can_be_read_becomes_a_row(tmp_path: Path) -> None:
    sentences = ["left half", "", "the half before", "\ufffd", " left half ", "what is not right"]
    samples = samples_of(tmp_path, ref(sentences=[{"sent": text} for text in sentences]))
    assert [sample.id for sample in samples] == [f"refcoco/train/3-{place}" for place in range(3)]
    for sample, text in zip(samples, ["left half", "the half before", "what is not right"], strict=True):
        assert text in sample.instruction
    assert len({sample.source for sample in samples}) == 1


@pytest.mark.parametrize("sentences", [[], [{"sent": " "}, {"sent": ""}]])
def test_a_reference_without_a_sentence_is_skipped_and_counted(sentences: list[Any], tmp_path: Path) -> None:
    writer.write_grefcoco(tmp_path, range(4), 16, world.TRAIN)
    file = tmp_path / "grefs(unc).json"
    references = json.loads(file.read_text())
    references[1]["sentences"] = sentences
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(references).encode())
    corpus = refcoco.read(str(tmp_path), corpus="grefcoco")
    assert [sample.error for sample in corpus] == ["", "", ""] and corpus.skipped == {refcoco.NO_SENTENCE: 1}


@pytest.mark.parametrize("part", [[], [4.0, 4.0], [4.0, 4.0, 5.0, 5.0]])
def test_a_part_of_an_outline_without_an_area_changes_nothing(tmp_path: Path, part: list[float]) -> None:
    objects = known()
    objects.annotations[5]["segmentation"] = [LEFT, part]
    assert samples_of(tmp_path, ref(), objects) == samples_of(tmp_path, ref())
    objects.annotations[5]["segmentation"] = [part]
    (bad,) = samples_of(tmp_path, ref(), objects)
    assert "the outline holds no pixel" in bad.error


def test_a_target_equals_its_source_for_an_expression_of_no_object(tmp_path: Path) -> None:
    samples = samples_of(tmp_path, ref(ann_id=[-1], no_target=True))
    assert len(samples) == 2
    for sample in samples:
        assert not sample.error and sample.source and sample.source == sample.target and not sample.boxes


def test_a_reference_makes_the_same_requests_at_every_visit(tmp_path: Path) -> None:
    assert samples_of(tmp_path, ref()) == samples_of(tmp_path, ref())
    instructions = {samples_of(tmp_path, ref(ref_id=number))[0].instruction for number in range(20)}
    assert len(instructions) > 10


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image_id": 4}, "image_id 4 is not in instances.json"),
        ({"ann_id": 4}, "ann_id 4 is not in instances.json with image_id 1"),
        ({"ann_id": 7}, "ann_id 7 is not in instances.json with image_id 1"),
        ({"ann_id": [5, 4]}, r"ann_id \[5, 4\] is not in instances.json"),
        ({"ann_id": []}, r"ann_id \[\] is not in instances.json"),
        ({"ann_id": [8]}, r"ann_id \[8\] means crowds only"),
        ({"ann_id": 9}, "segmentation: found 'LEFT'"),
        ({"sentences": [{"sent": "\ufffd"}, {"sent": " "}]}, "found no sentence that can be read"),
        ({"sentences": None}, "found no sentences"),
        ({"ref_id": None}, "found no ref_id"),
        ({"ref_id": [3]}, "found no ref_id"),
        ({"image_id": [1]}, r"image_id \[1\] is not in instances.json"),
    ],
)
def test_a_bad_reference_becomes_one_bad_row(tmp_path: Path, changed: dict, message: str) -> None:
    (sample,) = samples_of(tmp_path, ref(**changed))
    with pytest.raises(rows.BadRow, match=message):
        raise rows.BadRow(sample.error)
    assert sample.error.startswith(f"{sample.id}: ") and not sample.source


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"file_name": "../other.jpg"}, "found the path '../other.jpg'"),
        ({"height": 21}, "found (20, 30) pixels, instances.json says (21, 30)"),
        ({"height": None}, "no name and size of the picture"),
    ],
)
def test_a_bad_picture_becomes_one_bad_row(tmp_path: Path, changed: dict, message: str) -> None:
    (sample,) = samples_of(tmp_path, ref(), known(**changed))
    assert message in sample.error


def test_a_reference_that_stands_twice_is_taken_once() -> None:
    joined = refcoco.join("refcoco", "train", "refs.p", [ref(), ref(ann_id=6), ref(ref_id=4)], known(), Counter())
    assert [name for name, _ in joined] == ["refcoco/train/3", "refcoco/train/at-1", "refcoco/train/4"]
    assert [str(item) for _, item in joined if isinstance(item, rows.BadRow)] == ["ref_id 3 stands twice"]


@pytest.mark.parametrize(
    ("refs", "message"),
    [
        ({}, "refs.p: found a dict"),
        ([1], "found a list; it holds a list of dicts"),
        ([], "has no references of split 'train'; found nothing"),
    ],
)
def test_other_contents_than_a_list_of_references_are_refused(refs: Any, message: str) -> None:
    with pytest.raises(rows.CorpusError, match=message):
        refcoco.join("refcoco", "train", "refs.p", refs, known(), Counter())


class Bomb:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path("burst"),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_contents_are_unpickled(tmp_path: Path, protocol: int) -> None:
    plain = [{"a": 1, "b": [2.5, "café", None, True], "c": (1, 2)}, 1 << 70]
    (tmp_path / "refs.p").write_bytes(pickle.dumps(plain, protocol=protocol))
    assert refcoco.read_pickle(str(tmp_path / "refs.p")) == plain


def test_the_byte_strings_of_python_2_become_text(tmp_path: Path) -> None:
    (tmp_path / "refs.p").write_bytes(b"\x80\x02]q\x00(U\x05caf\xc3\xa9q\x01U\x02\xff!q\x02e.")
    assert refcoco.read_pickle(str(tmp_path / "refs.p")) == ["café", "\ufffd!"]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_imports_is_refused_by_name(
    tmp_path: Path, protocol: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "refs.p").write_bytes(pickle.dumps([Bomb()], protocol=protocol))
    with pytest.raises(rows.CorpusError, match=r"refs.p tries to import \S+, refused"):
        refcoco.read_pickle(str(tmp_path / "refs.p"))
    assert not (tmp_path / "burst").exists()


@pytest.mark.parametrize("data", [b"", b"[]", b"\x80\x02]q\x00(K", b"\x80\x02}b.", b"\x80\x02.", b"\xff\xd8"])
def test_a_damaged_pickle_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "refs.p").write_bytes(data)
    with pytest.raises(rows.CorpusError, match="refs.p is not a pickle: .*; fetch it again"):
        refcoco.read_pickle(str(tmp_path / "refs.p"))
