from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fireedit.platform import images
from fireedit.platform.data.corpora import instructpix2pix, rows
from fireedit.platform.scenes import families, world
from fireedit.platform.scenes.render import Renderer
from fireedit.platform.scenes.writers import instructpix2pix as writer

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
    assert known.id == "instructpix2pix/train/5c17e9580c200dbf", "every machine must find this id"


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
    with pytest.raises(
        rows.CorpusError, match=r"neither data/train-\*.parquet nor seeds.json beside .*; found nothing"
    ):
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


def test_a_corpus_reads_every_record_in_order(tmp_path: Path) -> None:
    expected = [instructpix2pix.read_pair(record) for record in records(tmp_path)]
    assert list(instructpix2pix.read(f"file://{tmp_path}")) == expected


def test_folders_are_read_where_there_is_no_parquet(tmp_path: Path) -> None:
    writer.write_folders(tmp_path, range(10), 16, world.TRAIN)
    assert [sample.id for sample in instructpix2pix.read(str(tmp_path), "test")] == ["instructpix2pix/test/0000009"]
    assert len(list(instructpix2pix.read(str(tmp_path)))) == 9
