from pathlib import Path

import pyarrow.parquet as pq
import pytest

from fireedit.platform import images
from fireedit.platform.data.scenes import world
from fireedit.platform.data.writers import instructpix2pix, parquet


def test_rows_fill_files_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "ROWS_PER_FILE", 200)
    rows = ({"n": number, "image": b"x" if number % 2 else None} for number in range(450))
    paths = parquet.write_parquet(tmp_path, "train", {"n": "int64", "image": "image"}, rows)
    assert [path.name for path in paths] == [f"train-0000{n}-of-00003.parquet" for n in range(3)]
    assert [pq.ParquetFile(path).num_row_groups for path in paths] == [2, 2, 1]
    read = pq.read_table(tmp_path).to_pylist()
    assert [row["n"] for row in read] == list(range(450))
    assert read[0]["image"] is None and read[1]["image"] == {"bytes": b"x", "path": None}


def test_hugging_face_reads_the_images_as_images(tmp_path: Path) -> None:
    instructpix2pix.write(tmp_path, range(3), 32, world.TRAIN)
    datasets = pytest.importorskip("datasets", reason="the hub's own reader is not installed")
    files = [str(path) for path in (tmp_path / "data").glob("*.parquet")]
    table = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert isinstance(table.features["original_image"], datasets.Image)
    assert table[0]["edited_image"].size == (32, 32)
    assert images.decode(
        table.cast_column("edited_image", datasets.Image(decode=False))[0]["edited_image"]["bytes"]
    ).shape
