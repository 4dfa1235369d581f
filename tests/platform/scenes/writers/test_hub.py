import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from fireedit.platform import images
from fireedit.platform.scenes import world
from fireedit.platform.scenes.writers import emu_edit, hub, instructpix2pix, magicbrush, ultraedit


def test_rows_fill_files_in_order(tmp_path: Path) -> None:
    rows = ({"n": number, "image": b"x" if number % 2 else None} for number in range(450))
    paths = hub.write_parquet(tmp_path, "train", rows, {"image": "image"}, rows_per_file=200)
    assert [path.name for path in paths] == [f"train-0000{n}-of-00003.parquet" for n in range(3)]
    assert [pq.ParquetFile(path).num_row_groups for path in paths] == [2, 2, 1]
    read = pq.read_table(tmp_path).to_pylist()
    assert [row["n"] for row in read] == list(range(450))
    assert read[0]["image"] is None and read[1]["image"] == {"bytes": b"x", "path": None}


@pytest.mark.parametrize(
    ("write", "prefix", "pictures"),
    [
        (instructpix2pix.write, "train", {"original_image", "edited_image"}),
        (magicbrush.write, "train", {"source_img", "mask_img", "target_img"}),
        (ultraedit.write, "FreeForm", {"source_image", "edited_image"}),
        (ultraedit.write, "RegionBase", {"source_image", "edited_image", "mask_image"}),
        (emu_edit.write, "test", {"image"}),
        (functools.partial(emu_edit.write, generations=True), "validation", {"image", "edited_image"}),
    ],
)
def test_hugging_face_reads_the_same_pixels(
    tmp_path: Path, write: Callable[..., None], prefix: str, pictures: set[str]
) -> None:
    """Load the files with the hub's own library, which recognizes pictures by the metadata alone."""
    datasets = pytest.importorskip("datasets", reason="the hub's own reader is not installed")
    write(tmp_path, range(9), 32, world.TRAIN)
    files = sorted(str(path) for path in (tmp_path / "data").glob(f"{prefix}*.parquet"))
    table = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert {name for name, feature in table.features.items() if isinstance(feature, datasets.Image)} == pictures
    records = pq.ParquetDataset(files).read().to_pylist()
    assert len(records) == len(table) > 1
    for loaded, record in zip(table, records, strict=True):
        for name, value in record.items():
            if name in pictures:
                np.testing.assert_array_equal(loaded[name].convert("RGB"), images.decode(value["bytes"]))
            else:
                assert loaded[name] == value
