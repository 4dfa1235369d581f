import json
from pathlib import Path

import pytest

from fireedit.platform.data import catalog
from fireedit.platform.data.corpora.rows import CorpusError

BLOCK = 50_000_000
"""Seeds of one corpus in the world of training, which has a thousand million."""
FIRST_SEEDS = {
    "cc12m": 0,
    "instructpix2pix": 50_000_000,
    "cocostuff": 100_000_000,
    "llava_instruct": 150_000_000,
    "refcoco": 200_000_000,
    "refcoco+": 250_000_000,
    "refcocog": 300_000_000,
    "grefcoco": 350_000_000,
    "magicbrush": 400_000_000,
    "ultraedit": 450_000_000,
    "reasonedit": 500_000_000,
    "cc12m:tars": 550_000_000,
    "instructpix2pix:folders": 600_000_000,
    "instructpix2pix:zips": 650_000_000,
    "cocostuff:json": 700_000_000,
    "magicbrush:test": 750_000_000,
    "reasonedit:test": 800_000_000,
    "emu_edit": 850_000_000,
    "emu_edit:generations": 900_000_000,
}
"""Seeds that scenes of each corpus have been drawn from since they were first written; weights were trained on them."""


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


@pytest.mark.parametrize("name", FIRST_SEEDS)
def test_scene_seeds_of_a_corpus_never_change(name: str) -> None:
    start = FIRST_SEEDS[name]
    assert catalog.seed_range(catalog.SCENE_FORMS[name], range(1_000_000_000)) == range(start, start + BLOCK)
    held_out = catalog.seed_range(catalog.SCENE_FORMS[name], range(1_300_000_000, 1_400_000_000))
    assert (held_out.start, len(held_out)) == (1_300_000_000 + start // 10, BLOCK // 10)


def test_scenes_name_their_world_and_real_pictures_have_none(tmp_path: Path) -> None:
    assert catalog.world_of(str(tmp_path)) == ""
    (tmp_path / catalog.MANIFEST).write_text(json.dumps({"corpus": "cc12m", "world": "unseen_pairs"}))
    assert catalog.world_of(str(tmp_path)) == "unseen_pairs"


@pytest.mark.parametrize("content", ["", "{", "{}", "<html>"])
def test_a_damaged_manifest_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / catalog.MANIFEST).write_text(content)
    with pytest.raises(CorpusError, match=catalog.MANIFEST):
        catalog.world_of(str(tmp_path))
