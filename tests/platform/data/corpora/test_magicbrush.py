import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fireedit.platform import images
from fireedit.platform.data.corpora import magicbrush, parquet, rows
from fireedit.platform.scenes import language, world
from fireedit.platform.scenes.render import difference, draw_scene
from fireedit.platform.scenes.writers import magicbrush as writer

READER = parquet.PairReader("magicbrush/train", magicbrush.COLUMNS, magicbrush.KEY, erased=True)


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


def test_written_parquet_is_read_back(corpus: Path) -> None:
    expected = [
        (seed, index, edit) for seed in range(8) for index, edit in enumerate(writer.session(world.TRAIN, seed), 1)
    ]
    samples = list(magicbrush.read(str(corpus)))
    assert len(samples) == len({sample.id for sample in samples}) == len(expected) > 8
    for sample, (seed, index, edit) in zip(samples, expected, strict=True):
        assert sample.id.startswith(f"magicbrush/train/{seed:012d}-{index}-") and not sample.error
        assert sample.instruction == edit.instruction and sample.task == "edit"
        np.testing.assert_array_equal(images.decode(sample.target), draw_scene(edit.target, 32).image)


def test_all_changes_are_in_the_box_of_the_white_mask(corpus: Path) -> None:
    for sample in magicbrush.read(str(corpus)):
        changed = (images.decode(sample.source) != images.decode(sample.target)).any(axis=-1)
        ((left, top, right, bottom),) = (np.array(box) * 32 for box in sample.boxes)
        changed[round(top) : round(bottom), round(left) : round(right)] = False
        assert not changed.any()


def test_source_and_target_may_differ_in_size() -> None:
    sample = READER.to_sample(turn())
    assert not sample.error and sample.id.startswith("magicbrush/train/139306-2-")
    assert sample.boxes == ((0.5, 0.25, 0.75, 0.5),)


def test_transparency_is_a_mask_too() -> None:
    erased = np.full((20, 20, 4), 255, np.uint8)
    erased[:10, :10, 3] = 0
    sample = READER.to_sample(turn(mask_img={"bytes": images.encode_png(erased)}))
    assert sample.boxes == ((0.0, 0.0, 0.5, 0.5),)


@pytest.mark.parametrize("mask", [None, {"bytes": None}])
def test_an_edit_is_whole_without_its_mask(mask: Any) -> None:
    for record in (turn(mask_img=mask), {name: value for name, value in turn().items() if name != "mask_img"}):
        sample = READER.to_sample(record)
        assert not sample.error and sample.target and not sample.boxes


def test_a_damaged_mask_is_a_bad_row() -> None:
    sample = READER.to_sample(turn(mask_img={"bytes": turn()["mask_img"]["bytes"][:-30]}))
    assert ": mask_img: found a damaged PNG" in sample.error and not sample.source


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
    with pytest.raises(rows.CorpusError, match="magicbrush has no split 'val'"):
        magicbrush.read(str(tmp_path), "val")


HELD_OUT = world.WORLDS["unseen_seeds"]
SEEDS = HELD_OUT.seeds[:6]


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("magicbrush")
    writer.write_folder(folder, SEEDS, 32, HELD_OUT)
    return folder


def sessions_of(folder: Path, content: Any) -> str:
    (folder / "test").mkdir(exist_ok=True)
    (folder / "test" / "edit_sessions.json").write_text(json.dumps(content))
    return str(folder)


def listed_turn(**changed: Any) -> dict[str, Any]:
    names = {"input": "7-input.png", "mask": "7-mask1.png", "output": "7-output1.png"}
    return {**names, "instruction": "Make it blue."} | changed


def test_a_written_folder_is_read_back(benchmark: Path) -> None:
    edits = {
        f"magicbrush/test/{seed:012d}-{number}": edit
        for seed in SEEDS
        for number, edit in enumerate(writer.session(HELD_OUT, seed), start=1)
    }
    samples = list(magicbrush.read(str(benchmark), "test"))
    assert [sample.id for sample in samples] == list(edits) and len(edits) > len(SEEDS)
    for sample in samples:
        assert not sample.error and sample.instruction == edits[sample.id].instruction


def test_folder_and_parquet_hold_the_same_edits(benchmark: Path, tmp_path: Path) -> None:
    """Transparent masks there and white ones here mean the same boxes, but for what is white in a picture itself."""
    writer.write(tmp_path, SEEDS, 32, HELD_OUT)
    pairs = list(zip(magicbrush.read(str(benchmark), "test"), magicbrush.read(str(tmp_path)), strict=True))
    for single, packed in pairs:
        assert (single.instruction, single.source, single.target) == (packed.instruction, packed.source, packed.target)
        assert single.boxes[0][0] >= packed.boxes[0][0] and single.boxes[0][2] <= packed.boxes[0][2]
    assert sum(single.boxes == packed.boxes for single, packed in pairs) > len(pairs) / 2


def test_the_files_are_those_that_magicbrushs_own_scripts_ask_for(benchmark: Path) -> None:
    names = {path.name for path in (benchmark / "test").iterdir()}
    descriptions = {"global_descriptions.json", "local_descriptions.json"}
    assert names == {"images", "edit_turns.json", "edit_sessions.json"} | descriptions
    sessions = json.loads((benchmark / "test" / "edit_sessions.json").read_text())
    turns = json.loads((benchmark / "test" / "edit_turns.json").read_text())
    assert turns == [turn for session in sessions.values() for turn in session]
    for key, session in sessions.items():
        pictures = {path.name for path in (benchmark / "test" / "images" / key).iterdir()}
        assert pictures == {turn[name] for turn in session for name in ("input", "mask", "output")}
        assert [turn["input"] for turn in session[1:]] == [turn["output"] for turn in session[:-1]]
        assert all(turn["input"].split("-")[0] == key for turn in session), "their folder is found by that"


def test_each_turn_has_the_captions_of_its_result(benchmark: Path) -> None:
    turns = magicbrush.find_turns(str(benchmark), "test")
    edits = [(seed, edit) for seed in SEEDS for edit in writer.session(HELD_OUT, seed)]
    for (_, turn), (seed, edit) in zip(turns, edits, strict=True):
        assert turn.global_caption == language.caption(edit.target, seed)
        assert turn.local_caption == edit.local_caption


def test_the_transparent_part_of_a_mask_holds_all_that_changes(benchmark: Path) -> None:
    for _, turn in magicbrush.find_turns(str(benchmark), "test"):
        source, mask, target = ((benchmark / name).read_bytes() for name in (turn.source, turn.mask, turn.target))
        alpha = images.Picture(mask).alpha()
        assert alpha is not None and set(np.unique(alpha)) <= {0, 255}
        assert (alpha[difference(images.decode(source), images.decode(target))] == 0).all()


def test_descriptions_may_be_missing(tmp_path: Path) -> None:
    ((name, turn_read),) = magicbrush.find_turns(sessions_of(tmp_path, {"7": [listed_turn()]}), "test")
    assert name == "magicbrush/test/7-1"
    assert turn_read.global_caption == turn_read.local_caption == ""


@pytest.mark.parametrize(
    ("session", "message"),
    [
        ({"input": "a.png"}, "found a dict; write a list of turns"),
        (["text"], "found 'text'"),
        ([listed_turn(instruction=" ")], "write an object of texts"),
        ([listed_turn(output=None)], "write an object of texts"),
        (
            [listed_turn(input="../../secret.png")],
            "found the path 'test/images/7/../../secret.png'; write one relative",
        ),
        ([listed_turn()], "test/images/7/7-input.png: no such file"),
    ],
)
def test_a_record_that_is_no_turn_is_a_bad_row(tmp_path: Path, session: Any, message: str) -> None:
    (sample,) = magicbrush.read(sessions_of(tmp_path, {"7": session}), "test")
    assert sample.error.startswith(f"{sample.id}: ") and message in sample.error and not sample.source
    assert sample.id in ("magicbrush/test/7", "magicbrush/test/7-1")


def test_a_folder_without_the_test_set_is_refused(benchmark: Path, tmp_path: Path) -> None:
    with pytest.raises(rows.CorpusError, match="edit_sessions.json is missing"):
        magicbrush.read(str(benchmark / "test"), "test")
    with pytest.raises(rows.CorpusError, match="found a list; write an object of sessions"):
        magicbrush.read(sessions_of(tmp_path, [listed_turn()]), "test")
    (tmp_path / "test" / "edit_sessions.json").write_text('{"7": [], "7": []}')
    with pytest.raises(rows.CorpusError, match="the key '7' stands twice"):
        magicbrush.read(str(tmp_path), "test")
