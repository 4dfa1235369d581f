"""Emu Edit's test set as an evaluation: parts by file, tables, keys in both splits, and what is refused."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fireedit.jobs.evaluation.sets.emu_edit import ALL, GENERATIONS, UNLIKE, open_set
from fireedit.jobs.evaluation.sets.evaluation_set import SetError
from fireedit.platform import images
from tests.factories import picture


def row(number: int, split: str, **fields: Any) -> dict[str, Any]:
    """Make a row; the two captions of every third one are equal."""
    captions = {"input_caption": f"a car {number}", "output_caption": f"a {'red ' * (number % 3 > 0)}car {number}"}
    pictures = {"image": number, "edited_image": 50 + number}
    encoded = {name: {"bytes": images.encode_png(picture(seed)), "path": None} for name, seed in pictures.items()}
    keys = {"idx": number, "hash": f"h{number}", "task": "local", "split": split, "instruction": f"make it {number}"}
    return keys | captions | encoded | fields


def write(folder: Path, splits: dict[str, list[dict[str, Any]]], generations: bool = True) -> str:
    (folder / "data").mkdir(parents=True)
    for split, rows in splits.items():
        kept = [{name: value for name, value in each.items() if generations or name != "edited_image"} for each in rows]
        pq.write_table(pa.Table.from_pylist(kept), folder / "data" / f"{split}-00000-of-00001.parquet")
    return str(folder)


@pytest.fixture
def root(tmp_path: Path) -> str:
    large, small = [row(number, "validation") for number in range(4)], [row(7, "test"), row(1, "test")]
    return write(tmp_path / "published", {"validation": large, "test": small})


def keys(edits: Any, table: str) -> list[str]:
    return [each.unit for each in edits.comparisons if each.table == table]


def test_sources_are_the_references_and_equal_captions_left_out_of_a_second_table(root: str, tmp_path: Path) -> None:
    edits = open_set(root, str(tmp_path / "set"), "3589", partial=True)
    assert keys(edits, ALL) == ["0-h0", "1-h1", "2-h2", "3-h3"] and keys(edits, UNLIKE) == ["1-h1", "2-h2"]
    first = edits.comparisons[0]
    assert first.reference == first.source and first.output == "0-h0.png" and first.caption == "a car 0"
    assert Path(first.reference).read_bytes() == images.encode_png(picture(0))
    assert edits.turns[1].instruction == "make it 1" and edits.name == "emu-edit-3589"


def test_emu_edits_own_pictures_are_a_table_of_their_own(root: str, tmp_path: Path) -> None:
    edits = open_set(root, str(tmp_path / "set"), "3589", "generations", partial=True)
    own = [each for each in edits.comparisons if each.table == GENERATIONS]
    assert not any(turn.target for turn in edits.turns), "they are no true results"
    assert len(own) == 4 and Path(own[2].reference).read_bytes() == images.encode_png(picture(52))


def test_a_key_that_stands_in_both_splits_counts_once(root: str, tmp_path: Path) -> None:
    small = open_set(root, str(tmp_path / "small"), "2022", partial=True)
    both = open_set(root, str(tmp_path / "both"), "all", partial=True)
    assert sorted(keys(both, ALL)) == ["0-h0", "1-h1", "2-h2", "3-h3", "7-h7"]
    assert set(keys(small, ALL)) <= {"7-h7", "1-h1"} and "7-h7" in keys(small, ALL)


def test_the_published_number_is_asserted(root: str, tmp_path: Path) -> None:
    with pytest.raises(SetError, match=r"found 4 edits of 3589; write --partial"):
        open_set(root, str(tmp_path / "set"), "3589")


def test_rows_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    rows = [row(0, "validation"), row(1, "validation", instruction="")]
    root = write(tmp_path / "published", {"validation": rows})
    with pytest.raises(SetError, match=r"found 1 edits of 3589, and 1 that cannot be read, first .*instruction"):
        open_set(root, str(tmp_path / "set"), "3589")
    assert keys(open_set(root, str(tmp_path / "set"), "3589", partial=True), ALL) == ["0-h0"]


def test_the_set_without_results_has_none_to_compare_with(tmp_path: Path) -> None:
    root = write(tmp_path / "published", {"validation": [row(0, "validation")]}, generations=False)
    with pytest.raises(SetError, match="has no edited_image; give emu_edit_test_set_generations"):
        open_set(root, str(tmp_path / "set"), "3589", "generations", partial=True)
