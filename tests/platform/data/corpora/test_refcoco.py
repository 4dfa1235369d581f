import json
import pickle
from pathlib import Path

import pytest

from fireedit.platform.data import catalog
from fireedit.platform.data.corpora import refcoco, rows
from fireedit.platform.scenes import world
from fireedit.platform.scenes.writers import refcoco as writer

NAMES = list(refcoco.REFS)


@pytest.mark.parametrize("corpus", NAMES)
def test_our_writer_is_read_back(tmp_path: Path, corpus: str) -> None:
    writer.write(tmp_path, range(1000, 1012), 48, world.TRAIN, corpus=corpus)
    referred = refcoco.read_refs(str(tmp_path), "train", corpus)
    said = [(f"{one.id}-{place}", text) for one in referred for place, text in enumerate(one.sentences)]
    assert len(said) > len(referred) > 12 and len(dict(said)) == len(said)
    for (row_id, sentence), sample in zip(said, catalog.open_corpus(corpus, str(tmp_path)), strict=True):
        assert sample.id == row_id and sample.corpus == corpus and sample.task == "edit" and not sample.error
        assert sentence in sample.instruction
        assert sample.source != sample.target and len(sample.boxes) == 1


def test_refcoco_plus_says_nothing_of_places(tmp_path: Path) -> None:
    writer.write(tmp_path / "0", range(40), 32, world.TRAIN)
    writer.write(tmp_path / "plus", range(40), 32, world.TRAIN, corpus="refcoco+")
    said, plus = (
        [sentence for one in refcoco.read_refs(str(tmp_path / name), "train", corpus) for sentence in one.sentences]
        for name, corpus in (("0", "refcoco"), ("plus", "refcoco+"))
    )
    assert any("left" in sentence for sentence in said) and len(plus) > 40
    assert not [sentence for sentence in plus if "left" in sentence or "right" in sentence]


def test_the_suffix_of_a_references_file_name_is_not_followed(tmp_path: Path) -> None:
    writer.write(tmp_path, [7], 32, world.TRAIN)
    ref = pickle.loads((tmp_path / "refs(unc).p").read_bytes())[0]
    assert not (tmp_path / "train2014" / ref["file_name"]).exists()
    assert refcoco.read_refs(str(tmp_path), "train", "refcoco")[0].file_name == "COCO_train2014_000000000007.jpg"


@pytest.mark.parametrize("corpus", NAMES)
def test_a_folder_that_is_not_its_name_is_refused(tmp_path: Path, corpus: str) -> None:
    other = "refcoco" if corpus == "refcocog" else "refcocog"
    writer.write(tmp_path, [7], 32, world.TRAIN, corpus=other)
    with pytest.raises(rows.CorpusError, match=r"refs\(...\).p is missing: the references of refcoco"):
        catalog.open_corpus(corpus, str(tmp_path))


def test_a_pickle_that_imports_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps([Path("a")]))
    with pytest.raises(rows.CorpusError, match="tries to import pathlib"):
        refcoco.read(str(tmp_path))


def test_splits_are_the_published_ones(tmp_path: Path) -> None:
    with pytest.raises(rows.CorpusError, match="refcocog has no split 'testA'; write train or val or test"):
        refcoco.read(str(tmp_path), "testA", corpus="refcocog")
    writer.write(tmp_path, [7], 32, world.TRAIN)
    with pytest.raises(rows.CorpusError, match="has no references of split 'testA'; found train"):
        refcoco.read(str(tmp_path), "testA")


def test_pictures_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps([{"split": "train"}]))
    (tmp_path / "instances.json").write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    with pytest.raises(rows.CorpusError, match="train2014 is missing: the pictures of COCO train2014"):
        refcoco.read(str(tmp_path))
