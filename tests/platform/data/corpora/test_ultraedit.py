from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fireedit.platform import images
from fireedit.platform.data.corpora import masks, ultraedit
from fireedit.platform.labels import decode_labels
from fireedit.platform.scenes import families, world
from fireedit.platform.scenes.render import difference, draw_scene
from fireedit.platform.scenes.writers import ultraedit as writer


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ultraedit")
    writer.write(folder, range(12), 32, world.TRAIN)
    return folder


def table(corpus: Path, prefix: str) -> pa.Table:
    return pa.concat_tables(pq.read_table(path) for path in sorted((corpus / "data").glob(f"{prefix}*.parquet")))


def test_a_written_corpus_is_read_back(corpus: Path) -> None:
    free, regional = table(corpus, "FreeForm").to_pylist(), table(corpus, "RegionBase").to_pylist()
    assert len(free) == 9 and [record["idx"] for record in regional] == [0, 4, 8]
    for record, sample in zip(free + regional, ultraedit.read(str(corpus)), strict=True):
        seed = record["idx"]
        make = writer.region_edit if seed % writer.REGION_EVERY == 0 else families.training_edit
        assert sample.instruction == make(world.TRAIN, seed).instruction and not sample.error
        assert sample.id.startswith(f"ultraedit/train/{seed}-")
        assert sample.source == record["source_image"]["bytes"] and sample.target == record["edited_image"]["bytes"]


def test_the_box_of_a_regional_edit_is_where_it_changes_the_scene(corpus: Path) -> None:
    boxed = {int(sample.id.split("/")[2].split("-")[0]): sample.boxes for sample in ultraedit.read(str(corpus))}
    assert [seed for seed, boxes in boxed.items() if boxes] == [0, 4, 8]
    for seed in (0, 4, 8):
        edit = writer.region_edit(world.TRAIN, seed)
        drawn = (draw_scene(scene, 32).image for scene in (edit.source, edit.target))
        assert boxed[seed] == (masks.box(difference(*drawn)),)


def test_free_form_files_have_null_columns_as_published(corpus: Path) -> None:
    schema = table(corpus, "FreeForm").schema
    assert schema.field("mask_image").type == schema.field("edit_object").type == pa.null()
    assert len(schema) == 14


def test_a_region_is_masked_and_named(corpus: Path) -> None:
    for record in table(corpus, "RegionBase").to_pylist():
        mask = decode_labels(record["mask_image"]["bytes"])
        assert set(np.unique(mask)) == {0, 255} and record["edit_object"]


def test_a_mask_may_be_a_jpeg_or_missing(corpus: Path) -> None:
    record = table(corpus, "RegionBase").to_pylist()[0]
    exact = ultraedit.READER.to_sample(record)
    lossy = images.encode_jpeg(decode_labels(record["mask_image"]["bytes"]))
    (box,) = ultraedit.READER.to_sample(record | {"mask_image": {"bytes": lossy}}).boxes
    assert np.abs(np.subtract(box, exact.boxes[0])).max() <= 2 / 32
    missing = ultraedit.READER.to_sample(record | {"mask_image": None})
    assert missing.id == exact.id and not missing.error and not missing.boxes


def test_files_that_differ_in_other_columns_are_read_together(corpus: Path, tmp_path: Path) -> None:
    """Free-form files hold nulls where region-based ones hold masks, and the set of 500,000 lacks both columns."""
    free = table(corpus, "FreeForm")
    (tmp_path / "data").mkdir()
    for path in (corpus / "data").iterdir():
        (tmp_path / "data" / path.name).write_bytes(path.read_bytes())
    lacking = free.slice(0, 2).drop_columns(["edit_object", "mask_image"])
    pq.write_table(
        lacking.set_column(lacking.schema.get_field_index("idx"), "idx", pa.array([100, 101])),
        tmp_path / "data" / "FreeForm-00000-of-00390.parquet",
    )
    records = [record | {"idx": 100 + index} for index, record in enumerate(free.slice(0, 2).to_pylist())]
    records += free.to_pylist() + table(corpus, "RegionBase").to_pylist()
    samples = list(ultraedit.read(str(tmp_path)))
    assert samples == [ultraedit.READER.to_sample(record) for record in records]
    assert len(samples) == 14 and sum(bool(sample.boxes) for sample in samples) == 3
