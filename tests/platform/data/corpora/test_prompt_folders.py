import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fireedit.platform import images
from fireedit.platform.data.corpora import instructpix2pix, prompt_folders, rows
from fireedit.platform.data.sample import Sample
from fireedit.platform.scenes import families, world
from fireedit.platform.scenes.render import Renderer
from fireedit.platform.scenes.writers import instructpix2pix as writer

PICTURE = images.encode_jpeg(np.random.default_rng(0).integers(0, 255, (24, 24, 3), np.uint8))


def sample_of(files: dict[str, bytes], entry: Any = ("0000003", ["5"])) -> Sample:
    """The sample of a folder whose files are these."""

    def open_file(name: str) -> bytes:
        if name not in files:
            raise rows.BadRow(f"{name}: no such file")
        return files[name]

    folder = prompt_folders.Folder(id="instructpix2pix/train/0000003", name=entry[0], seeds=tuple(entry[1]))
    return prompt_folders.read_folder(open_file, folder)


def folder_of(**changed: bytes) -> dict[str, bytes]:
    plain = {"prompt": b'{"caption": "a cat", "edit": "Make it red."}', "before": PICTURE, "after": PICTURE} | changed
    names = {"prompt": "prompt.json", "before": "5_0.jpg", "after": "5_1.jpg"}
    return {f"0000003/{names[part]}": data for part, data in plain.items()}


@pytest.mark.parametrize("write", [writer.write_folders, writer.write_zips])
def test_our_writer_is_read_back(tmp_path: Path, write: Callable) -> None:
    write(tmp_path, range(10), 32, world.TRAIN)
    samples = list(instructpix2pix.read(f"file://{tmp_path}"))
    assert [sample.id for sample in samples] == [f"instructpix2pix/train/{seed:07d}" for seed in range(9)]
    for seed, sample in enumerate(samples):
        edit = families.training_edit(world.TRAIN, seed)
        assert sample.instruction == edit.instruction and sample.task == "edit" and not sample.error
        assert images.decode(sample.source).shape == images.decode(sample.target).shape == (32, 32, 3)


def test_zips_hold_the_same_samples_as_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "FOLDERS_PER_ZIP", 4)
    writer.write_folders(tmp_path / "folders", range(10), 16, world.TRAIN)
    writer.write_zips(tmp_path / "zips", range(10), 16, world.TRAIN)
    zips = instructpix2pix.read(str(tmp_path / "zips"))
    assert [(name, len(folders)) for name, folders in zips.parts] == [
        ("shard-00.zip", 4),
        ("shard-01.zip", 4),
        ("shard-02.zip", 1),
    ]
    assert list(zips) == list(instructpix2pix.read(str(tmp_path / "folders")))


def test_which_pair_is_drawn_from_the_id(tmp_path: Path) -> None:
    writer.write_folders(tmp_path, range(20), 16, world.TRAIN)
    first, again = (list(instructpix2pix.read(str(tmp_path))) for _ in range(2))
    assert first == again
    drawn = set()
    for seed, sample in enumerate(first):
        pair = random.Random(sample.id).choice([seed * 2, seed * 2 + 1])
        assert sample.source == (tmp_path / f"{seed:07d}" / f"{pair}_0.jpg").read_bytes()
        assert sample.target == (tmp_path / f"{seed:07d}" / f"{pair}_1.jpg").read_bytes()
        drawn.add(pair % 2)
    assert drawn == {0, 1}


def test_splits_are_by_position_as_published(tmp_path: Path) -> None:
    (tmp_path / "seeds.json").write_text(json.dumps([[f"{n:07d}", ["1"]] for n in range(41)]))
    splits = {
        split: prompt_folders.read_list(str(tmp_path / "seeds.json"), split) for split in ("train", "val", "test")
    }
    assert [len(folders) for folders in splits.values()] == [36, 2, 3]
    assert [folder.name for folders in splits.values() for folder in folders] == [f"{n:07d}" for n in range(41)]
    assert splits["test"][-1].id == "instructpix2pix/test/0000040"
    with pytest.raises(rows.CorpusError, match="has no split 'dev'; write train or val or test"):
        prompt_folders.read(str(tmp_path), "dev")


def test_the_generators_own_prompt_files_are_read_too() -> None:
    for name in ("input", "caption"):
        prompt = json.dumps({name: "a cat", "edit": " Make it red. ", "output": "a red cat"}).encode()
        assert sample_of(folder_of(prompt=prompt)).instruction == "Make it red."


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (folder_of(prompt=b"{"), "prompt.json is not JSON"),
        (folder_of(prompt=b"[]"), "prompt.json: found []; write an object whose 'edit' is a text"),
        (folder_of(prompt=b'{"edit": " "}'), "write an object whose 'edit' is a text"),
        (folder_of(before=PICTURE[:-60]), "0000003/5_0.jpg: found a damaged JPEG"),
        (folder_of(after=b""), "0000003/5_1.jpg: found no bytes"),
        ({name: data for name, data in folder_of().items() if "_1" not in name}, "0000003/5_1.jpg: no such file"),
        ({}, "0000003/prompt.json: no such file"),
    ],
)
def test_bad_folders_become_bad_rows(files: dict[str, bytes], found: str) -> None:
    sample = sample_of(files)
    assert sample.error.startswith("instructpix2pix/train/0000003: ") and found in sample.error
    assert not sample.source and not sample.target


def test_bad_entries_of_the_list_become_bad_rows(tmp_path: Path) -> None:
    writer.write_folders(tmp_path, [3], 16, world.TRAIN)
    bad: list[Any] = ["0000003", ["0000003"], ["0000003", []], ["../0003", ["1"]], ["0000003", ["a"]], [3, ["1"]], None]
    entries = [["0000003", ["6", "7"]], *bad, ["0000003", ["6"]], ["0000009", ["18"]]]
    (tmp_path / "seeds.json").write_text(json.dumps(entries + [["0000010", ["1"]]] * 2))
    good, *wrong, twice, gone = list(instructpix2pix.read(str(tmp_path)))[:10]
    assert not good.error and len(wrong) == len(bad)
    for index, sample in enumerate(wrong, start=1):
        assert sample.id == f"instructpix2pix/train/at-{index}"
        assert "seeds.json: found " in sample.error and "write [NNNNNNN, [SEED, ...]]" in sample.error
    assert twice.error == "instructpix2pix/train/at-8: seeds.json: the folder 0000003 stands twice"
    assert gone.error == "instructpix2pix/train/0000009: 0000009/prompt.json: no such file"


def test_a_folder_that_no_zip_holds_is_a_bad_row(tmp_path: Path) -> None:
    writer.write_zips(tmp_path, range(8), 16, world.TRAIN)
    listed = json.loads((tmp_path / "seeds.json").read_text())
    (tmp_path / "seeds.json").write_text(json.dumps([["7777777", ["1"]], *listed]))
    *good, lost = instructpix2pix.read(str(tmp_path))
    assert len(good) == 7 and not any(sample.error for sample in good)
    wanted = "found in none of shard-00.zip; fetch the zip that holds it"
    assert lost.error == f"instructpix2pix/train/7777777: {wanted}"


def test_a_damaged_or_missing_member_of_a_zip_is_a_bad_row(tmp_path: Path) -> None:
    writer.write_zips(tmp_path, range(3), 16, world.TRAIN)
    path = tmp_path / "shard-00.zip"
    with zipfile.ZipFile(path) as archive:
        held = {info.filename: archive.read(info) for info in archive.infolist()}
        at = archive.getinfo("0000000/prompt.json").header_offset
    data = bytearray(path.read_bytes())
    data[at + 60] ^= 0xFF
    path.write_bytes(data)
    damaged, good = instructpix2pix.read(str(tmp_path))
    assert "shard-00.zip: 0000000/prompt.json is damaged (Bad CRC-32" in damaged.error and not good.error
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in held.items():
            if not name.startswith("0000001/") or name.endswith("prompt.json"):
                archive.writestr(name, content)
    good, lacking = instructpix2pix.read(str(tmp_path))
    assert not good.error and "shard-00.zip: no 0000001/" in lacking.error and lacking.error.endswith("_0.jpg in it")


def test_a_cut_zip_is_refused_by_name(tmp_path: Path) -> None:
    writer.write_zips(tmp_path, range(3), 16, world.TRAIN)
    path = tmp_path / "shard-00.zip"
    whole = path.read_bytes()
    for size in (0, 100, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:size])
        with pytest.raises(rows.CorpusError, match=r"shard-00.zip is cut, or no zip: .*; fetch it again"):
            instructpix2pix.read(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "found"),
    [("{", "seeds.json is not JSON"), ("{}", "found a dict; it holds a list"), ("[]", "none is of split 'train'")],
)
def test_a_list_that_is_none_is_refused(tmp_path: Path, content: str, found: str) -> None:
    (tmp_path / "seeds.json").write_text(content)
    with pytest.raises(rows.CorpusError, match=found):
        instructpix2pix.read(str(tmp_path))


def test_the_second_pair_is_the_same_edit_of_objects_turned_round(tmp_path: Path) -> None:
    writer.write_folders(tmp_path, [4], 32, world.TRAIN)
    edit, folder = families.make_edit(world.TRAIN, 4), tmp_path / "0000004"
    first, second = (images.decode((folder / f"{pair}_1.jpg").read_bytes()).astype(int) for pair in (8, 9))
    assert np.abs(first - Renderer().draw(edit.target, 32).image).mean() < 3
    assert np.abs(first - second).mean() > 1
