import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fireedit.platform import images
from fireedit.platform.data.corpora import parquet, rows
from fireedit.platform.data.sample import Sample

PICTURE = images.encode_png(np.zeros((8, 8, 3), np.uint8))
WIDE = images.encode_png(np.zeros((8, 24, 3), np.uint8))


def pair(**changed: Any) -> Sample:
    record = {"before": {"bytes": PICTURE, "path": None}, "words": " Make it wide. ", "after": {"bytes": WIDE}}
    record |= changed
    return parquet.read_pair(record, "magicbrush/dev", "7", source="before", instruction="words", target="after")


def to_sample(record: dict[str, Any]) -> Sample:
    return Sample(id=f"a/{record['idx']}", corpus="a", task="edit", instruction=" ".join(record))


def open_columns(root: Path, *columns: str) -> rows.Corpus:
    reader = parquet.RecordReader("ultraedit", columns, columns[2:], to_sample, ["mask"])
    return parquet.records(str(root), ("FreeForm", "RegionBase"), reader)


def file_of(root: Path, name: str, **columns: Any) -> Path:
    (root / "data").mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), root / "data" / name)
    return root / "data" / name


def test_pictures_of_differing_size_make_a_pair() -> None:
    sample = pair()
    assert sample.corpus == "magicbrush" and sample.instruction == "Make it wide." and not sample.error
    assert images.decode(sample.source).shape == (8, 8, 3) and images.decode(sample.target).shape == (8, 24, 3)


def test_records_that_a_set_calls_alike_have_different_ids() -> None:
    assert pair().id == pair().id and pair().id.startswith("magicbrush/dev/7-")
    assert len({pair().id, pair(words="Make it tall.").id, pair(after={"bytes": PICTURE}).id}) == 3


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"words": None}, "words: found no text"),
        ({"words": 7}, "words: found no text"),
        ({"before": None}, "before: found no bytes"),
        ({"before": {"bytes": None, "path": "a.jpg"}}, "before: found no bytes"),
        ({"after": {"bytes": WIDE[:-30], "path": None}}, "after: found a damaged PNG"),
    ],
)
def test_bad_records_become_bad_rows(changed: dict, message: str) -> None:
    sample = pair(**changed)
    assert sample.error.startswith(f"{sample.id}: {message}") and not sample.source


def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(rows.CorpusError, match="data is missing"):
        open_columns(tmp_path, "idx")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-0.parquet").touch()
    with pytest.raises(rows.CorpusError, match=r"has no FreeForm\*.parquet.*found train-0"):
        open_columns(tmp_path, "idx")


def test_a_first_file_of_other_columns_is_refused(tmp_path: Path) -> None:
    paths = pa.array([{"path": "a.jpg"}])
    file_of(tmp_path, "FreeForm_0-0.parquet", idx=[1], empty=pa.nulls(1), elsewhere=paths)
    with pytest.raises(rows.CorpusError, match="has no column edit_prompt; found idx, empty"):
        open_columns(tmp_path, "idx", "edit_prompt")
    with pytest.raises(rows.CorpusError, match="the column idx holds no pictures"):
        open_columns(tmp_path, "idx", "empty", "idx")
    with pytest.raises(rows.CorpusError, match="the column elsewhere holds no pictures"):
        open_columns(tmp_path, "idx", "empty", "elsewhere")
    with pytest.raises(rows.CorpusError, match="the column empty holds nothing"):
        open_columns(tmp_path, "idx", "empty")


def test_each_file_is_checked_for_an_optional_picture(tmp_path: Path) -> None:
    pictures = pa.array([{"bytes": PICTURE, "path": None}])
    file_of(tmp_path, "FreeForm_0.parquet", idx=[0])
    file_of(tmp_path, "FreeForm_1.parquet", idx=[1], mask=pa.nulls(1), beside=["text"])
    file_of(tmp_path, "FreeForm_2.parquet", idx=[2], mask=["no picture"], beside=pa.nulls(1))
    file_of(tmp_path, "RegionBase.parquet", idx=[3], mask=pictures)
    assert [sample.instruction for sample in open_columns(tmp_path, "idx")] == ["idx", "idx", "idx", "idx mask"]


def test_clutter_beside_the_files_is_counted(tmp_path: Path) -> None:
    file_of(tmp_path, "FreeForm_0.parquet", idx=[0])
    for name in (".gitattributes", "._FreeForm_0.parquet", "FreeForm_0.parquet.lock", "Thumbs.db"):
        (tmp_path / "data" / name).write_bytes(b"no data")
    corpus = open_columns(tmp_path, "idx")
    assert [sample.id for sample in corpus] == ["a/0"] and corpus.skipped == {rows.CLUTTER_REASON: 4}


def test_a_later_file_that_cannot_be_read_is_one_bad_row_and_the_rest_goes_on(tmp_path: Path) -> None:
    whole = file_of(tmp_path, "FreeForm_0.parquet", idx=[0], words=["a"])
    (tmp_path / "data" / "FreeForm_1.parquet").write_bytes(whole.read_bytes()[:-20])
    file_of(tmp_path, "FreeForm_2.parquet", idx=[2])
    file_of(tmp_path, "FreeForm_3.parquet", idx=[3], words=pa.nulls(1))
    (tmp_path / "data" / "FreeForm_4.parquet").touch()
    file_of(tmp_path, "RegionBase.parquet", idx=[5], words=["b"])
    samples = list(open_columns(tmp_path, "idx", "words"))
    assert [sample.id for sample in samples if not sample.error] == ["a/0", "a/5"]
    bad = {sample.id: sample.error for sample in samples if sample.error}
    assert list(bad) == [f"ultraedit/FreeForm_{number}.parquet" for number in (1, 2, 3, 4)]
    reasons = ("is not a parquet file", "has no column words; found", "column words holds nothing", "is not a parquet")
    for (name, error), text in zip(bad.items(), reasons, strict=True):
        assert name.removeprefix("ultraedit/") in error and text in error


def test_a_file_damaged_in_its_middle_is_named(tmp_path: Path) -> None:
    """Not a bad row: a bucket that did not answer looks the same, and then the file must be read again."""
    path = file_of(tmp_path, "FreeForm_0.parquet", idx=[0], words=["a" * 1000])
    content = path.read_bytes()
    path.write_bytes(content[:4] + bytes(len(content) // 3) + content[4 + len(content) // 3 :])
    with pytest.raises(OSError, match="FreeForm_0.parquet: "):
        list(open_columns(tmp_path, "idx", "words"))


def test_parts_are_files_and_travel_to_other_processes(tmp_path: Path) -> None:
    file_of(tmp_path, "FreeForm_0.parquet", idx=list(range(40)))
    file_of(tmp_path, "FreeForm_1.parquet", idx=[40])
    corpus = pickle.loads(pickle.dumps(open_columns(tmp_path, "idx")))
    assert [[sample.id for sample in corpus.read_part(part)] for part in corpus.parts] == [
        [f"a/{number}" for number in range(40)],
        ["a/40"],
    ]


def test_a_file_is_streamed_and_not_loaded(tmp_path: Path) -> None:
    """Groups of 20 rows, as the hub's of 100: the file has ten, of which one and a half may be in memory."""
    noise = np.random.default_rng(0)
    rows_of = [{"idx": number, "mask": {"bytes": noise.bytes(100_000), "path": None}} for number in range(200)]
    (tmp_path / "data").mkdir()
    pq.write_table(pa.Table.from_pylist(rows_of), tmp_path / "data" / "FreeForm_0.parquet", row_group_size=20)
    del rows_of
    before, most = pa.total_allocated_bytes(), 0
    for _ in open_columns(tmp_path, "idx"):
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 12_000_000, f"{most:,} bytes of a file of 20 million"
