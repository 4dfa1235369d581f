from pathlib import Path

import numpy as np
import pytest

from fireedit.platform import images
from fireedit.platform.data.corpora import rows
from fireedit.platform.data.sample import Sample


def test_a_missing_file_is_named_beside_the_files_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "readme.md").write_text("")
    with pytest.raises(rows.CorpusError, match=r"labels.txt is missing: .*: readme.md"):
        rows.require(str(tmp_path), "labels.txt", "the class list")


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


def test_a_corpus_is_the_rows_of_its_parts_in_order() -> None:
    def read(name: str, number: int) -> list[Sample]:
        return [Sample(id=f"{name}-{place}", corpus="few", task="caption") for place in range(number % 3)]

    corpus = rows.in_parts([(f"few/{number}", number) for number in range(1200)], read)
    assert [len(part) for part in corpus.parts] == [512, 512, 176]
    assert [sample.id for sample in corpus][:4] == ["few/1-0", "few/2-0", "few/2-1", "few/4-0"]


def test_a_bad_item_is_one_bad_row_under_its_id() -> None:
    def read(name: str, item: str) -> list[Sample]:
        raise rows.BadRow(f"found {item}")

    for item in ("mist", rows.BadRow("found mist")):
        (sample,) = rows.in_parts([("few/7", item)], read)
        assert (sample.id, sample.corpus, sample.error) == ("few/7", "few", "few/7: found mist")


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(rows.CorpusError, match="cocostuff has no split 'dev'"):
        rows.require_split("cocostuff", "dev", ["train", "val"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[]", "found a list; write an object of cats"),
        (b"{}", "found an empty object; write an object of cats"),
        (b'{"cat": {"age": 1, "age": 2}}', "the key 'age' stands twice; fetch it again"),
    ],
)
def test_other_contents_than_an_object_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(rows.CorpusError, match=f"a.json.*{message}"):
        rows.read_object(str(tmp_path / "a.json"), "an object of cats")


@pytest.mark.parametrize(
    "path",
    [".DS_Store", "a/._b.png", "Thumbs.db", "__MACOSX/a/b.png", "./@eaDir/b.png", "b.png.lock", "~$b.txt", "b.png~"],
)
def test_files_that_systems_and_tools_leave_are_clutter(path: str) -> None:
    assert rows.is_clutter(path)


@pytest.mark.parametrize("path", ["b.png", "./a.v1/b.png", "../b.png", "thumbs/b.png", "a.part/b.png", "icon.png"])
def test_data_files_are_no_clutter(path: str) -> None:
    assert not rows.is_clutter(path)


def test_a_name_that_extends_another_is_its_companion() -> None:
    names = ["a", "a_labelTrainIds", "a.v2", "ab", "b_color", "a-1"]
    assert rows.companions(names) == {"a_labelTrainIds", "a.v2"}


def test_a_link_to_nowhere_and_a_folder_are_errors_with_their_names(tmp_path: Path) -> None:
    (tmp_path / "lost.json").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder.json").mkdir()
    for name, reason in (("lost.json", "no such file"), ("folder.json", "found a folder"), ("gone.json", "no such")):
        with pytest.raises(rows.CorpusError, match=f"{name}: {reason}"):
            rows.read_json(str(tmp_path / name))
        with pytest.raises(rows.BadRow, match=f"^{name}: {reason}"):
            rows.read_bytes(str(tmp_path), name)


def test_a_byte_order_mark_is_none_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "marked").write_bytes(b'\xef\xbb\xbf{"a":\n1}')
    assert rows.read_json(str(tmp_path / "marked")) == {"a": 1}
    assert rows.read_lines(str(tmp_path / "marked")) == ['{"a":', "1}"]
