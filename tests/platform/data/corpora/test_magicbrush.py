from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from fireedit.platform import images
from fireedit.platform.data.corpora import magicbrush, rows
from fireedit.platform.scenes import world
from fireedit.platform.scenes.render import Renderer
from fireedit.platform.scenes.writers import magicbrush as writer


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("magicbrush")
    writer.write(folder, range(8), 32, world.TRAIN)
    return folder


def turn(**changed: Any) -> dict[str, Any]:
    """A record whose target is larger than its source."""
    source, target = (np.full((side, side, 3), 90, np.uint8) for side in (20, 40))
    masked = source.copy()
    masked[5:10, 10:15] = 255
    pictures = {"source_img": source, "mask_img": masked, "target_img": target}
    encoded = {name: {"bytes": images.encode_png(picture), "path": None} for name, picture in pictures.items()}
    return {"img_id": "139306", "turn_index": 2, "instruction": "Make it blue.", **encoded} | changed


def test_our_writer_is_read_back(corpus: Path) -> None:
    expected = [
        (seed, index, edit) for seed in range(8) for index, edit in enumerate(writer.session(world.TRAIN, seed), 1)
    ]
    samples = list(magicbrush.read(str(corpus)))
    assert len(samples) == len({sample.id for sample in samples}) == len(expected) > 8
    for sample, (seed, index, edit) in zip(samples, expected, strict=True):
        assert sample.id.startswith(f"magicbrush/train/{seed:012d}-{index}-") and not sample.error
        assert sample.instruction == edit.instruction and sample.task == "edit"
        np.testing.assert_array_equal(images.decode(sample.target), Renderer().draw(edit.target, 32).image)


def test_a_later_turn_goes_on_from_the_one_before(corpus: Path) -> None:
    records = pq.read_table(corpus / "data").to_pylist()
    later = [index for index, record in enumerate(records) if record["turn_index"] > 1]
    assert later
    for index in later:
        assert records[index]["source_img"] == records[index - 1]["target_img"]


def test_what_changes_lies_in_the_box_of_the_white_mask(corpus: Path) -> None:
    for sample in magicbrush.read(str(corpus)):
        changed = (images.decode(sample.source) != images.decode(sample.target)).any(axis=-1)
        ((left, top, right, bottom),) = (np.array(box) * 32 for box in sample.boxes)
        changed[round(top) : round(bottom), round(left) : round(right)] = False
        assert not changed.any()


def test_source_and_target_may_differ_in_size() -> None:
    sample = magicbrush.read_turn(turn(), split="dev")
    assert not sample.error and sample.id.startswith("magicbrush/dev/139306-2-")
    assert sample.boxes == ((0.5, 0.25, 0.75, 0.5),)


def test_transparency_is_a_mask_too() -> None:
    erased = np.full((20, 20, 4), 255, np.uint8)
    erased[:10, :10, 3] = 0
    sample = magicbrush.read_turn(turn(mask_img={"bytes": images.encode_png(erased)}))
    assert sample.boxes == ((0.0, 0.0, 0.5, 0.5),)


@pytest.mark.parametrize("mask", [None, {"bytes": None}, {"bytes": turn()["mask_img"]["bytes"][:-30]}])
def test_an_edit_is_whole_without_its_mask(mask: Any) -> None:
    for record in (turn(mask_img=mask), {name: value for name, value in turn().items() if name != "mask_img"}):
        sample = magicbrush.read_turn(record)
        assert not sample.error and sample.target and not sample.boxes


def test_a_missing_picture_is_a_bad_row() -> None:
    assert magicbrush.read_turn(turn(source_img=None)).error.endswith(
        "source_img: found no bytes; send a PNG, JPEG or WebP picture"
    )


def test_dev_is_read_from_its_folder_or_else_from_parquet(tmp_path: Path) -> None:
    writer.write(tmp_path, range(1), 32, world.TRAIN)
    (train,) = (tmp_path / "data").iterdir()
    train.rename(train.with_name("dev-00000-of-00001.parquet"))
    assert [sample.id for sample in magicbrush.read(str(tmp_path), "dev")][0].startswith(
        "magicbrush/dev/000000000000-1-"
    )
    writer.write_folder(tmp_path, range(1, 2), 32, world.TRAIN, split="dev")
    assert [sample.id for sample in magicbrush.read(str(tmp_path), "dev")][0] == "magicbrush/dev/000000000001-1"


def test_a_folder_that_is_not_magicbrush_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "FreeForm_0.parquet").touch()
    with pytest.raises(rows.CorpusError, match=r"has no dev-\*.parquet; found FreeForm_0.parquet"):
        magicbrush.read(str(tmp_path), "dev")
    with pytest.raises(rows.CorpusError, match="magicbrush has no split 'val'; write train or dev or test"):
        magicbrush.read(str(tmp_path), "val")
