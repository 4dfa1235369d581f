import pickle
from collections.abc import Iterable
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


COLUMNS = {"source": "before", "instruction": "words", "target": "after", "mask": "mask"}
READER = parquet.PairReader("ultraedit/train", COLUMNS, key=["idx"])


def record(number: int = 7, **changed: Any) -> dict[str, Any]:
    pictures = {"before": {"bytes": PICTURE, "path": None}, "after": {"bytes": WIDE, "path": None}}
    return {"idx": number, "words": " Make it wide. ", **pictures} | changed


def open_all(root: Path) -> rows.Corpus:
    return parquet.open_pairs(str(root), ("FreeForm", "RegionBase"), READER)


def numbers(samples: Iterable[Sample]) -> list[int]:
    """Numbers in the ids of good samples."""
    return [int(sample.id.split("/")[2].split("-")[0]) for sample in samples if not sample.error]


def file_of(root: Path, name: str, *records: dict[str, Any], **columns: Any) -> Path:
    """Write records, with some columns replaced or left out where they are None."""
    (root / "data").mkdir(exist_ok=True)
    table = {key: pa.array([line[key] for line in records]) for key in records[0]} | columns
    kept = {key: values for key, values in table.items() if values is not None}
    pq.write_table(pa.table(kept), root / "data" / name)
    return root / "data" / name


def test_pictures_of_differing_size_make_a_pair() -> None:
    sample = READER.to_sample(record())
    assert sample.corpus == "ultraedit" and sample.instruction == "Make it wide." and not sample.error
    assert images.decode(sample.source).shape == (8, 8, 3) and images.decode(sample.target).shape == (8, 24, 3)


def test_records_that_a_set_calls_alike_have_different_ids() -> None:
    records = (record(), record(), record(words="Make it tall."), record(after={"bytes": PICTURE}))
    ids = [READER.to_sample(each).id for each in records]
    assert ids[0].startswith("ultraedit/train/7-") and ids[0] == ids[1] and len(set(ids)) == 3


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
    sample = READER.to_sample(record(**changed))
    assert sample.error.startswith(f"{sample.id}: {message}") and not sample.source


def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(rows.CorpusError, match="data is missing"):
        open_all(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-0.parquet").touch()
    with pytest.raises(rows.CorpusError, match=r"has no FreeForm\*.parquet.*found train-0"):
        open_all(tmp_path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"words": None}, "has no column words; found idx, before, after"),
        ({"before": ["text"]}, "the column before holds no pictures"),
        ({"after": pa.array([{"path": "a.jpg"}])}, "the column after holds no pictures"),
        ({"words": pa.nulls(1)}, "the column words holds nothing"),
    ],
)
def test_a_first_file_of_other_columns_is_refused(columns: dict[str, Any], message: str, tmp_path: Path) -> None:
    file_of(tmp_path, "FreeForm_0-0.parquet", record(), **columns)
    with pytest.raises(rows.CorpusError, match=message):
        open_all(tmp_path)


def test_each_file_is_checked_for_a_mask(tmp_path: Path) -> None:
    file_of(tmp_path, "FreeForm_0.parquet", record())
    file_of(tmp_path, "FreeForm_1.parquet", record(), mask=pa.nulls(1), beside=["text"])
    file_of(tmp_path, "FreeForm_2.parquet", record(), mask=["no picture"], beside=pa.nulls(1))
    white = images.encode_png(np.full((8, 8, 3), 255, np.uint8))
    file_of(tmp_path, "RegionBase.parquet", record(mask={"bytes": white}))
    assert [sample.boxes for sample in open_all(tmp_path)] == [(), (), (), ((0, 0, 1, 1),)]


def test_clutter_beside_the_files_is_counted(tmp_path: Path) -> None:
    file_of(tmp_path, "FreeForm_0.parquet", record(0))
    for name in (".gitattributes", "._FreeForm_0.parquet", "FreeForm_0.parquet.lock", "Thumbs.db"):
        (tmp_path / "data" / name).write_bytes(b"no data")
    corpus = open_all(tmp_path)
    assert numbers(corpus) == [0] and corpus.skipped == {rows.CLUTTER_REASON: 4}


def test_a_later_file_that_cannot_be_read_is_one_bad_row_and_the_rest_goes_on(tmp_path: Path) -> None:
    whole = file_of(tmp_path, "FreeForm_0.parquet", record(0))
    (tmp_path / "data" / "FreeForm_1.parquet").write_bytes(whole.read_bytes()[:-20])
    file_of(tmp_path, "FreeForm_2.parquet", record(2), words=None)
    file_of(tmp_path, "FreeForm_3.parquet", record(3), words=pa.nulls(1))
    (tmp_path / "data" / "FreeForm_4.parquet").touch()
    file_of(tmp_path, "RegionBase.parquet", record(5))
    samples = list(open_all(tmp_path))
    assert numbers(samples) == [0, 5]
    bad = {sample.id: sample.error for sample in samples if sample.error}
    assert list(bad) == [f"ultraedit/FreeForm_{number}.parquet" for number in (1, 2, 3, 4)]
    reasons = ("is not a parquet file", "has no column words; found", "column words holds nothing", "is not a parquet")
    for (name, error), text in zip(bad.items(), reasons, strict=True):
        assert name.removeprefix("ultraedit/") in error and text in error


def test_a_file_damaged_in_its_middle_is_named(tmp_path: Path) -> None:
    """Not a bad row: a bucket that did not answer looks the same, and then the file must be read again."""
    path = file_of(tmp_path, "FreeForm_0.parquet", record(0, words="a" * 1000))
    content = path.read_bytes()
    path.write_bytes(content[:4] + bytes(len(content) // 3) + content[4 + len(content) // 3 :])
    with pytest.raises(OSError, match="FreeForm_0.parquet: "):
        list(open_all(tmp_path))


def test_parts_are_files_and_travel_to_other_processes(tmp_path: Path) -> None:
    file_of(tmp_path, "FreeForm_0.parquet", *map(record, range(40)))
    file_of(tmp_path, "FreeForm_1.parquet", record(40))
    corpus = pickle.loads(pickle.dumps(open_all(tmp_path)))
    assert [numbers(corpus.read_part(part)) for part in corpus.parts] == [list(range(40)), [40]]


def test_a_file_is_streamed_and_not_loaded(tmp_path: Path) -> None:
    """Groups of 20 rows, as the hub's of 100: the file has ten, of which one and a half may be in memory."""
    noise = np.random.default_rng(0)
    records = [record(number, mask={"bytes": noise.bytes(100_000), "path": None}) for number in range(200)]
    (tmp_path / "data").mkdir()
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "data" / "FreeForm_0.parquet", row_group_size=20)
    del records
    before, most = pa.total_allocated_bytes(), 0
    for _ in open_all(tmp_path):
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 12_000_000, f"{most:,} bytes of a file of 20 million"
