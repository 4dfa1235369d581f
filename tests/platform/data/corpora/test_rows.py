from pathlib import Path

import numpy as np
import pytest

from fireedit.platform import images
from fireedit.platform.data.corpora import rows
from fireedit.platform.data.sample import Sample


def test_a_missing_file_is_told_with_what_lies_there_instead(tmp_path: Path) -> None:
    (tmp_path / "readme.md").write_text("")
    with pytest.raises(rows.CorpusError, match=r"labels.txt is missing: the class list; found in .*: readme.md"):
        rows.require(str(tmp_path), "labels.txt", "the class list")


def test_a_missing_folder_is_told_too(tmp_path: Path) -> None:
    with pytest.raises(rows.CorpusError, match="found in .*/nowhere: nothing"):
        rows.require(str(tmp_path / "nowhere"), "labels.txt", "the class list")


def test_long_listings_are_cut(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / f"{number:02d}").touch()
    assert rows.listing(str(tmp_path)).endswith("06, 07, ...")


def test_a_picture_cut_short_is_a_bad_row_that_names_its_file(tmp_path: Path) -> None:
    whole = images.encode_jpeg(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    (tmp_path / "whole.jpg").write_bytes(whole)
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    assert rows.read_picture(str(tmp_path), "whole.jpg") == whole
    with pytest.raises(rows.BadRow, match="^half.jpg: found a damaged JPEG"):
        rows.read_picture(str(tmp_path), "half.jpg")
    with pytest.raises(rows.BadRow, match="^none.jpg: no such file"):
        rows.read_picture(str(tmp_path), "none.jpg")


def test_what_is_not_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "refs.json").write_bytes(b"\xff\xd8")
    with pytest.raises(rows.CorpusError, match="refs.json is not JSON: .*; fetch it again"):
        rows.read_json(str(tmp_path / "refs.json"))


def test_a_corpus_is_the_rows_of_its_parts_in_order() -> None:
    corpus = rows.in_parts(range(1200), lambda number: Sample(id=str(number), corpus="few", task="caption"))
    assert [len(part) for part in corpus.parts] == [512, 512, 176]
    assert [sample.id for sample in corpus] == [str(number) for number in range(1200)]


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(rows.CorpusError, match="cocostuff has no split 'dev'; write train or val"):
        rows.require_split("cocostuff", "dev", ["train", "val"])


def test_members_keep_their_order(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"b": 1, "a": {"c": []}}')
    assert list(rows.read_object(str(tmp_path / "a.json"), "an object").items()) == [("b", 1), ("a", {"c": []})]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"{", "is not JSON: .*; fetch it again"),
        (b'{"a": "\xff"}', "is not JSON: .*; fetch it again"),
        (b"[]", "found a list; write an object of cats"),
        (b"{}", "found an empty object; write an object of cats"),
        (b'{"cat": {"age": 1, "age": 2}}', "the key 'age' stands twice; fetch it again"),
    ],
)
def test_what_is_no_object_with_single_keys_is_refused(tmp_path: Path, content: bytes, found: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(rows.CorpusError, match=f"a.json.*{found}"):
        rows.read_object(str(tmp_path / "a.json"), "an object of cats")
