import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fireedit.platform import images
from fireedit.platform.data.corpora import emu_edit, rows
from fireedit.platform.scenes import families, language, world
from fireedit.platform.scenes.render import draw_scene
from fireedit.platform.scenes.writers import emu_edit as writer

HELD_OUT = world.WORLDS["unseen_seeds"]
SEEDS = HELD_OUT.seeds[:9]
PICTURE = images.encode_png(np.zeros((8, 8, 3), np.uint8))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write both published sets, without results and with them."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("edits", "generations")}
    writer.write(folders["edits"], SEEDS, 32, HELD_OUT)
    writer.write(folders["generations"], SEEDS, 32, HELD_OUT, generations=True)
    return folders


def edits(root: Path) -> list[emu_edit.EmuEdit]:
    return [edit for part in emu_edit.find_parts(str(root), Counter()) for edit in emu_edit.read_edits(part)]


def file_of(root: Path, name: str, *changed: dict[str, Any]) -> Path:
    """Write a file with one row for each of `changed`, which replaces some of its columns."""
    row = {"instruction": "Add a cat.", "image": {"bytes": PICTURE, "path": None}, "task": "add", "split": "test"}
    row |= {"idx": 1, "hash": "a", "input_caption": "A mat.", "output_caption": "A cat on a mat."}
    (root / "data").mkdir(exist_ok=True)
    table = pa.Table.from_pylist([row | changes for changes in changed])
    pq.write_table(table, root / "data" / name)
    return root / "data" / name


def test_a_written_corpus_is_read_back(folders: dict[str, Path]) -> None:
    by_seed = {edit.sample.id.split("/")[1].split("-")[0]: edit for edit in edits(folders["edits"])}
    assert len(by_seed) == 9
    for seed in SEEDS:
        edit, scenes = by_seed[str(seed)], families.make_edit(HELD_OUT, seed)
        assert edit.sample.instruction == scenes.instruction and not edit.sample.error and not edit.sample.target
        assert edit.input_caption == language.caption(scenes.source, seed)
        assert edit.output_caption == language.caption(scenes.target, seed)
        assert edit.task == writer.task_of(scenes)
        np.testing.assert_array_equal(images.decode(edit.sample.source), draw_scene(scenes.source, 32).image)


def test_results_of_the_set_are_its_targets(folders: dict[str, Path]) -> None:
    for edit in edits(folders["generations"]):
        scenes = families.make_edit(HELD_OUT, int(edit.sample.id.split("/")[1].split("-")[0]))
        np.testing.assert_array_equal(images.decode(edit.sample.target), draw_scene(scenes.target, 32).image)


def test_the_two_sets_name_their_splits_the_other_way_round_and_mean_the_same_edits(folders: dict[str, Path]) -> None:
    splits = [
        {(row["idx"], row["hash"]): row["split"] for row in pq.read_table(folder / "data").to_pylist()}
        for folder in folders.values()
    ]
    assert splits[0].keys() == splits[1].keys()
    assert all({splits[0][key], splits[1][key]} == {"validation", "test"} for key in splits[0])
    ids = [{edit.sample.id for edit in edits(folder)} for folder in folders.values()]
    assert ids[0] == ids[1] and len(ids[0]) == 9


def test_samples_are_the_edits_without_their_captions(folders: dict[str, Path]) -> None:
    corpus = pickle.loads(pickle.dumps(emu_edit.read(str(folders["edits"]))))
    assert list(corpus) == [edit.sample for edit in edits(folders["edits"])] and len(corpus.parts) == 2


def test_it_is_never_trained_on(folders: dict[str, Path]) -> None:
    with pytest.raises(rows.CorpusError, match="no split 'train'"):
        emu_edit.read(str(folders["edits"]), "train")
    with pytest.raises(rows.CorpusError, match="emu_edit has no split 'validation'"):
        emu_edit.read(str(folders["edits"]), "validation")


def test_a_key_that_stands_twice_is_a_bad_row_in_whichever_file(tmp_path: Path) -> None:
    file_of(tmp_path, "test-0.parquet", {}, {"hash": "b"}, {"hash": "b"})
    file_of(tmp_path, "validation-0.parquet", {}, {"idx": 2})
    samples = list(emu_edit.read(str(tmp_path)))
    assert [sample.id for sample in samples] == [
        "emu_edit/1-a",
        "emu_edit/1-b",
        "emu_edit/test-0.parquet-2",
        "emu_edit/validation-0.parquet-0",
        "emu_edit/2-a",
    ]
    assert samples[2].error == "emu_edit/test-0.parquet-2: idx 1 with hash 'b' stands twice"
    assert [bool(sample.error) for sample in samples] == [False, False, True, True, False]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"instruction": None}, "instruction: found no text"),
        ({"image": {"bytes": None, "path": "a.png"}}, "image: found no bytes"),
        ({"edited_image": None}, "edited_image: found no bytes"),
        ({"hash": None}, "idx 1 with hash '' is no key"),
        ({"idx": None}, "idx None with hash 'a' is no key"),
    ],
)
def test_bad_records_become_bad_rows(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    whole = {"idx": 7, "edited_image": {"bytes": PICTURE, "path": None}}
    file_of(tmp_path, "test-0.parquet", whole, whole | {"idx": 1} | changed)
    good, bad = emu_edit.read(str(tmp_path))
    assert not good.error and good.target
    assert bad.error.startswith(f"{bad.id}: {message}") and not bad.source and not bad.target
