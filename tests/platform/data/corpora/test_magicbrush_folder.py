import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fireedit.platform import images
from fireedit.platform.data.corpora import magicbrush, magicbrush_folder, rows
from fireedit.platform.scenes import language, world
from fireedit.platform.scenes.writers import changes
from fireedit.platform.scenes.writers import magicbrush as writer

HELD_OUT = world.WORLDS["unseen_seeds"]
SEEDS = HELD_OUT.seeds[:6]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("magicbrush")
    writer.write_folder(folder, SEEDS, 32, HELD_OUT)
    return folder


def sessions_of(folder: Path, content: Any) -> str:
    (folder / "test").mkdir(exist_ok=True)
    (folder / "test" / "edit_sessions.json").write_text(json.dumps(content))
    return str(folder)


def turn(**changed: Any) -> dict[str, Any]:
    names = {"input": "7-input.png", "mask": "7-mask1.png", "output": "7-output1.png"}
    return {**names, "instruction": "Make it blue."} | changed


def test_our_writer_is_read_back(corpus: Path) -> None:
    edits = {
        f"magicbrush/test/{seed:012d}-{number}": edit
        for seed in SEEDS
        for number, edit in enumerate(writer.session(HELD_OUT, seed), start=1)
    }
    samples = list(magicbrush.read(str(corpus), "test"))
    assert [sample.id for sample in samples] == list(edits) and len(edits) > len(SEEDS)
    for sample in samples:
        assert not sample.error and sample.instruction == edits[sample.id].instruction


def test_folder_and_parquet_hold_the_same_edits(corpus: Path, tmp_path: Path) -> None:
    """Transparent masks there and white ones here mean the same boxes, but for what is white in a picture itself."""
    writer.write(tmp_path, SEEDS, 32, HELD_OUT)
    pairs = list(zip(magicbrush.read(str(corpus), "test"), magicbrush.read(str(tmp_path)), strict=True))
    for single, packed in pairs:
        assert (single.instruction, single.source, single.target) == (packed.instruction, packed.source, packed.target)
        assert single.boxes[0][0] >= packed.boxes[0][0] and single.boxes[0][2] <= packed.boxes[0][2]
    assert sum(single.boxes == packed.boxes for single, packed in pairs) > len(pairs) / 2


def test_the_files_are_those_that_magicbrushs_own_scripts_ask_for(corpus: Path) -> None:
    found = {path.name for path in (corpus / "test").iterdir()}
    descriptions = {"global_descriptions.json", "local_descriptions.json"}
    assert found == {"images", "edit_turns.json", "edit_sessions.json"} | descriptions
    sessions = json.loads((corpus / "test" / "edit_sessions.json").read_text())
    turns = json.loads((corpus / "test" / "edit_turns.json").read_text())
    assert turns == [turn for session in sessions.values() for turn in session]
    for key, session in sessions.items():
        pictures = {path.name for path in (corpus / "test" / "images" / key).iterdir()}
        assert pictures == {turn[name] for turn in session for name in ("input", "mask", "output")}
        assert [turn["input"] for turn in session[1:]] == [turn["output"] for turn in session[:-1]]
        assert all(turn["input"].split("-")[0] == key for turn in session), "their folder is found by that"


def test_each_turn_has_the_captions_of_its_result(corpus: Path) -> None:
    turns = magicbrush_folder.find_turns(str(corpus), "test")
    edits = [(seed, edit) for seed in SEEDS for edit in writer.session(HELD_OUT, seed)]
    for turn, (seed, edit) in zip(turns, edits, strict=True):
        assert turn.global_caption == language.caption(edit.target, seed)
        assert turn.local_caption == changes.local_caption(edit)


def test_the_transparent_part_of_a_mask_holds_all_that_changes(corpus: Path) -> None:
    for turn in magicbrush_folder.find_turns(str(corpus), "test"):
        source, mask, target = ((corpus / name).read_bytes() for name in (turn.source, turn.mask, turn.target))
        alpha = images.decode_alpha(mask)
        assert alpha is not None and set(np.unique(alpha)) <= {0, 255}
        assert (alpha[changes.region(images.decode(source), images.decode(target))] == 0).all()


def test_descriptions_are_only_needed_by_who_measures(tmp_path: Path) -> None:
    (turn_read,) = magicbrush_folder.find_turns(sessions_of(tmp_path, {"7": [turn()]}), "test")
    assert turn_read.id == "magicbrush/test/7-1" and not turn_read.error
    assert turn_read.global_caption == turn_read.local_caption == ""


def test_an_edit_is_whole_without_its_mask(tmp_path: Path) -> None:
    root = sessions_of(tmp_path, {"7": [turn(), turn(mask=None)]})
    (tmp_path / "test" / "images" / "7").mkdir(parents=True)
    for name in ("7-input.png", "7-output1.png"):
        (tmp_path / "test" / "images" / "7" / name).write_bytes(images.encode_png(np.zeros((8, 8, 3), np.uint8)))
    for sample in magicbrush.read(root, "test"):
        assert not sample.error and sample.target and not sample.boxes


@pytest.mark.parametrize(
    ("session", "found"),
    [
        ({"input": "a.png"}, "found a dict; write a list of turns"),
        (["text"], "found 'text'; write an object of texts 'input', 'mask', 'output' and 'instruction'"),
        ([turn(instruction=" ")], "write an object of texts"),
        ([turn(output=None)], "write an object of texts"),
        ([turn(input="../../secret.png")], "found the path 'test/images/7/../../secret.png'; write one relative"),
        ([turn()], "test/images/7/7-input.png: no such file"),
    ],
)
def test_what_is_no_turn_is_a_bad_row(tmp_path: Path, session: Any, found: str) -> None:
    (sample,) = magicbrush.read(sessions_of(tmp_path, {"7": session}), "test")
    assert sample.error.startswith(f"{sample.id}: ") and found in sample.error and not sample.source
    assert sample.id in ("magicbrush/test/7", "magicbrush/test/7-1")


def test_a_folder_without_the_test_set_is_refused(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(rows.CorpusError, match="edit_sessions.json is missing: MagicBrush's test set, unpacked as"):
        magicbrush.read(str(corpus / "test"), "test")
    with pytest.raises(rows.CorpusError, match="found a list; write an object of sessions"):
        magicbrush.read(sessions_of(tmp_path, [turn()]), "test")
    (tmp_path / "test" / "edit_sessions.json").write_text('{"7": [], "7": []}')
    with pytest.raises(rows.CorpusError, match="the key '7' stands twice"):
        magicbrush.read(str(tmp_path), "test")
