from pathlib import Path

import pytest

from fireedit.platform.data import catalog
from fireedit.platform.data.corpora.rows import CorpusError


def test_a_misspelt_corpus_is_asked_back() -> None:
    with pytest.raises(catalog.UnknownCorpusError, match="no corpus is called 'coco_stuff'; did you mean 'cocostuff'?"):
        catalog.open_corpus("coco_stuff", ".")


def test_an_unknown_corpus_is_told_all_names() -> None:
    with pytest.raises(
        catalog.UnknownCorpusError, match="write one of cc12m, instructpix2pix, cocostuff, llava_instruct"
    ):
        catalog.open_corpus("imagenet", ".")


@pytest.mark.parametrize("name", catalog.CORPORA)
def test_every_reader_says_what_is_missing_in_a_wrong_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(CorpusError, match="is missing: .*; found in .*: holiday.jpg"):
        catalog.open_corpus(name, str(tmp_path))


@pytest.mark.parametrize("name", catalog.CORPORA)
def test_every_reader_refuses_a_split_it_does_not_have(name: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(CorpusError, match="has no"):
        catalog.open_corpus(name, str(tmp_path), split="nonsense")
