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
    record = {"before": {"bytes": PICTURE, "path": None}, "said": " Make it wide. ", "after": {"bytes": WIDE}} | changed
    return parquet.read_pair(record, "magicbrush/dev", "7", source="before", instruction="said", target="after")


def open_columns(root: Path, *columns: str) -> Any:
    return parquet.lazy_records(str(root), "UltraEdit", ("FreeForm", "RegionBase"), columns, columns[2:], dict)


def test_pictures_of_differing_size_make_a_pair() -> None:
    sample = pair()
    assert sample.corpus == "magicbrush" and sample.instruction == "Make it wide." and not sample.error
    assert images.decode(sample.source).shape == (8, 8, 3) and images.decode(sample.target).shape == (8, 24, 3)


def test_records_that_a_set_calls_alike_have_different_ids() -> None:
    assert pair().id == pair().id and pair().id.startswith("magicbrush/dev/7-")
    assert len({pair().id, pair(said="Make it tall.").id, pair(after={"bytes": PICTURE}).id}) == 3


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"said": None}, "said: found no text"),
        ({"before": None}, "before: found no bytes"),
        ({"before": {"bytes": None, "path": "a.jpg"}}, "before: found no bytes"),
        ({"after": {"bytes": WIDE[:-30], "path": None}}, "after: found a damaged PNG"),
    ],
)
def test_bad_records_become_bad_rows(changed: dict, found: str) -> None:
    sample = pair(**changed)
    assert sample.error.startswith(f"{sample.id}: {found}") and not sample.source


def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(rows.CorpusError, match="data is missing: the folder of parquet files of UltraEdit"):
        open_columns(tmp_path, "idx")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-0.parquet").touch()
    with pytest.raises(rows.CorpusError, match=r"has no FreeForm\*.parquet and no RegionBase\*.parquet; found train-0"):
        open_columns(tmp_path, "idx")
    file = tmp_path / "data" / "FreeForm_0-0.parquet"
    file.write_bytes(b"<html>")
    with pytest.raises(rows.CorpusError, match="FreeForm_0-0.parquet is not a parquet file: .*; fetch it again"):
        open_columns(tmp_path, "idx")
    pq.write_table(pa.table({"idx": [1], "empty": pa.nulls(1)}), file)
    with pytest.raises(rows.CorpusError, match="has no column edit_prompt; found idx, empty"):
        open_columns(tmp_path, "idx", "edit_prompt")
    with pytest.raises(rows.CorpusError, match="the column idx holds no pictures; they are {bytes, path}"):
        open_columns(tmp_path, "idx", "empty", "idx")
    with pytest.raises(rows.CorpusError, match="the column empty holds nothing"):
        open_columns(tmp_path, "idx", "empty")
