import json
from pathlib import Path

import pytest

from fireedit.platform.data import catalog
from fireedit.platform.data.corpora.rows import CorpusError


def test_a_misspelled_corpus_name_suggests_the_nearest() -> None:
    with pytest.raises(catalog.UnknownCorpusError, match="'coco_stuff'; did you mean 'cocostuff'"):
        catalog.open_corpus("coco_stuff", ".")


def test_an_unknown_corpus_name_lists_all_names() -> None:
    with pytest.raises(catalog.UnknownCorpusError, match="'imagenet'; write one of cc12m, instructpix2pix,"):
        catalog.open_corpus("imagenet", ".")


@pytest.mark.parametrize("name", catalog.CORPORA)
def test_every_reader_says_what_is_missing_in_a_wrong_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(CorpusError, match="(is missing:|has neither) .*; found .*holiday.jpg"):
        catalog.open_corpus(name, str(tmp_path), split="test" if name == "emu_edit" else "train")


@pytest.mark.parametrize("name", catalog.CORPORA)
def test_every_reader_refuses_a_split_it_does_not_have(name: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(CorpusError, match="has no"):
        catalog.open_corpus(name, str(tmp_path), split="nonsense")


def test_a_test_set_is_never_opened_for_training(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="'train'.*write test"):
        catalog.open_corpus("emu_edit", str(tmp_path))


def test_scenes_name_their_world_and_real_pictures_have_none(tmp_path: Path) -> None:
    assert catalog.world_of(str(tmp_path)) == ""
    (tmp_path / catalog.MANIFEST).write_text(json.dumps({"corpus": "cc12m", "world": "unseen_pairs"}))
    assert catalog.world_of(str(tmp_path)) == "unseen_pairs"


@pytest.mark.parametrize("content", ["", "{", "{}", "<html>"])
def test_a_damaged_manifest_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / catalog.MANIFEST).write_text(content)
    with pytest.raises(CorpusError, match=catalog.MANIFEST):
        catalog.world_of(str(tmp_path))
