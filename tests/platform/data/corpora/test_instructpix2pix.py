from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fireedit.platform import images
from fireedit.platform.data.corpora import instructpix2pix, rows
from fireedit.platform.data.scenes import families, world
from fireedit.platform.data.scenes.render import Renderer
from fireedit.platform.data.writers import instructpix2pix as writer

PICTURE = images.encode_png(np.zeros((8, 8, 3), np.uint8))


def records(folder: Path) -> list[dict]:
    writer.write(folder, range(6), 32, world.TRAIN)
    return pq.read_table(folder / "data").to_pylist()


def pair(**changed: object) -> dict:
    image = {"bytes": PICTURE, "path": None}
    return {"original_image": image, "edit_prompt": "Make it red.", "edited_image": image} | changed


def test_our_writer_is_read_back(tmp_path: Path) -> None:
    for seed, record in enumerate(records(tmp_path)):
        sample, edit = instructpix2pix.read_pair(record), families.make_edit(world.TRAIN, seed)
        assert sample.instruction == edit.instruction and sample.task == "edit" and not sample.error
        assert sample.source == record["original_image"]["bytes"] and sample.target == record["edited_image"]["bytes"]
        drawn = Renderer().draw(edit.target, 32).image
        assert np.abs(images.decode(sample.target).astype(int) - drawn).mean() < 2


def test_ids_follow_the_content_not_its_place(tmp_path: Path) -> None:
    ids = [instructpix2pix.read_pair(record).id for record in records(tmp_path)]
    assert len(set(ids)) == 6
    again = [instructpix2pix.read_pair(record).id for record in reversed(records(tmp_path / "again"))]
    assert again == ids[::-1]
    known = instructpix2pix.read_pair(pair(original_image={"bytes": b"before"}, edited_image={"bytes": b"after"}))
    assert known.id == "instructpix2pix/train/d342b77c1554294fa8207315", "every machine must find this id"


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"edit_prompt": None}, "edit_prompt: found no text"),
        ({"original_image": None}, "original_image: found no bytes"),
        ({"original_image": {"bytes": None, "path": "a.jpg"}}, "original_image: found no bytes"),
        ({"edited_image": {"bytes": PICTURE[:-30], "path": None}}, "edited_image: found a damaged PNG"),
    ],
)
def test_bad_records_become_bad_rows(changed: dict, found: str) -> None:
    sample = instructpix2pix.read_pair(pair(**changed))
    assert sample.error.startswith(f"{sample.id}: {found}") and not sample.source


def test_a_folder_without_parquet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(rows.CorpusError, match="data is missing: the folder of parquet files of InstructPix2Pix"):
        instructpix2pix.read(str(tmp_path))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dev-0.parquet").touch()
    with pytest.raises(rows.CorpusError, match=r"has no train-\*.parquet; found dev-0.parquet"):
        instructpix2pix.read(str(tmp_path))


def test_other_parquet_files_are_refused_by_their_columns(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"edit_prompt": ["a"], "image": [b""]}), tmp_path / "data" / "train-0.parquet")
    with pytest.raises(rows.CorpusError, match="no column original_image, edited_image; found edit_prompt, image"):
        instructpix2pix.read(str(tmp_path))


@pytest.mark.ray
def test_ray_reads_the_same_rows(tmp_path: Path, ray_session: None) -> None:
    expected = {(sample := instructpix2pix.read_pair(record)).id: sample.row() for record in records(tmp_path)}
    assert {row["id"]: row for row in instructpix2pix.read(str(tmp_path)).take_all()} == expected
