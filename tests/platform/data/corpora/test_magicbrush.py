from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from fireedit.platform import images
from fireedit.platform.data.corpora import magicbrush, rows
from fireedit.platform.data.scenes import world
from fireedit.platform.data.scenes.render import Renderer
from fireedit.platform.data.writers import magicbrush as writer


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("magicbrush")
    writer.write(folder, range(8), 32, world.TRAIN)
    return folder


def test_our_writer_is_read_back(corpus: Path) -> None:
    expected = [
        (seed, index, turn) for seed in range(8) for index, turn in enumerate(writer.session(world.TRAIN, seed), 1)
    ]
    records = pq.read_table(corpus / "data").to_pylist()
    assert len(records) == len(expected) > 8
    for record, (seed, index, turn) in zip(records, expected, strict=True):
        sample = magicbrush.read_turn(record)
        assert sample.id.startswith(f"magicbrush/train/{seed:012d}-{index}-") and not sample.error
        assert sample.instruction == turn.instruction
        np.testing.assert_array_equal(images.decode(sample.target), Renderer().draw(turn.target, 32).image)


def test_a_later_turn_goes_on_from_the_one_before(corpus: Path) -> None:
    records = pq.read_table(corpus / "data").to_pylist()
    later = [index for index, record in enumerate(records) if record["turn_index"] > 1]
    assert later
    for index in later:
        assert records[index]["source_img"] == records[index - 1]["target_img"]


def test_the_mask_is_white_where_the_picture_changes(corpus: Path) -> None:
    for record in pq.read_table(corpus / "data").to_pylist():
        source, target, mask = (
            images.decode(record[name]["bytes"]) for name in ("source_img", "target_img", "mask_img")
        )
        assert (mask[(source != target).any(axis=-1)] == 255).all()


def test_a_folder_that_is_not_magicbrush_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "FreeForm_0.parquet").touch()
    with pytest.raises(rows.CorpusError, match=r"has no dev-\*.parquet; found FreeForm_0.parquet"):
        magicbrush.read(str(tmp_path), "dev")


@pytest.mark.ray
def test_ray_reads_the_same_rows(corpus: Path, ray_session: None) -> None:
    records = pq.read_table(corpus / "data").to_pylist()
    expected = {(sample := magicbrush.read_turn(record)).id: sample.row() for record in records}
    assert {row["id"]: row for row in magicbrush.read(str(corpus)).take_all()} == expected
