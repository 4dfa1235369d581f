import functools
import json
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from fireedit.platform import images
from fireedit.platform.data.corpora import instructpix2pix, parquet, rows
from fireedit.platform.data.sample import Sample
from fireedit.platform.scenes import families, world
from fireedit.platform.scenes.render import draw_scene
from fireedit.platform.scenes.writers import instructpix2pix as writer

READER = parquet.PairReader("instructpix2pix/train", instructpix2pix.COLUMNS)


def records(folder: Path) -> list[dict]:
    writer.write(folder, range(6), 32, world.TRAIN)
    return pq.read_table(folder / "data").to_pylist()


def test_written_parquet_is_read_back(tmp_path: Path) -> None:
    for seed, record in enumerate(records(tmp_path)):
        sample, edit = READER.to_sample(record), families.make_edit(world.TRAIN, seed)
        assert sample.instruction == edit.instruction and sample.task == "edit" and not sample.error
        assert sample.source == record["original_image"]["bytes"] and sample.target == record["edited_image"]["bytes"]
        drawn = draw_scene(edit.target, 32).image
        assert np.abs(images.decode(sample.target).astype(int) - drawn).mean() < 2


def test_ids_follow_the_content_not_its_place(tmp_path: Path) -> None:
    ids = [READER.to_sample(record).id for record in records(tmp_path)]
    assert len(set(ids)) == 6
    again = [READER.to_sample(record).id for record in reversed(records(tmp_path / "again"))]
    assert again == ids[::-1]
    pictures = {"original_image": {"bytes": b"before"}, "edited_image": {"bytes": b"after"}}
    known = READER.to_sample(pictures | {"edit_prompt": "Make it red."})
    assert known.id == "instructpix2pix/train/5c17e9580c200dbf", "every machine must find this id"


def test_a_folder_without_parquet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(rows.CorpusError, match=r"neither data/train-\*.parquet nor seeds.json"):
        instructpix2pix.read(str(tmp_path))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dev-0.parquet").touch()
    with pytest.raises(rows.CorpusError, match=r"has no train-\*.parquet; found dev-0.parquet"):
        instructpix2pix.read(str(tmp_path))


def test_a_corpus_reads_every_record_in_order(tmp_path: Path) -> None:
    expected = [READER.to_sample(record) for record in records(tmp_path)]
    assert list(instructpix2pix.read(f"file://{tmp_path}")) == expected


PICTURE = images.encode_jpeg(np.random.default_rng(0).integers(0, 255, (24, 24, 3), np.uint8))


def sample_of(files: dict[str, bytes]) -> Sample:
    """The sample of a folder whose files are these."""
    items = [("instructpix2pix/train/0000003", instructpix2pix.PromptFolder("0000003", seeds=("5",)))]
    return next(rows.read_items(functools.partial(instructpix2pix.read_folder, files.__getitem__), items))


def folder_of(**changed: bytes) -> dict[str, bytes]:
    plain = {"prompt": b'{"caption": "a cat", "edit": "Make it red."}', "before": PICTURE, "after": PICTURE} | changed
    names = {"prompt": "prompt.json", "before": "5_0.jpg", "after": "5_1.jpg"}
    return {f"0000003/{names[part]}": data for part, data in plain.items()}


def test_written_folders_are_read_back(tmp_path: Path) -> None:
    writer.write_folders(tmp_path, range(10), 32, world.TRAIN)
    samples = list(instructpix2pix.read(f"file://{tmp_path}"))
    assert [sample.id for sample in samples] == [f"instructpix2pix/train/{seed:07d}" for seed in range(9)]
    for seed, sample in enumerate(samples):
        edit = families.training_edit(world.TRAIN, seed)
        assert sample.instruction == edit.instruction and sample.task == "edit" and not sample.error
        assert images.decode(sample.source).shape == images.decode(sample.target).shape == (32, 32, 3)


def test_zips_hold_the_same_samples_as_folders(tmp_path: Path) -> None:
    writer.write_folders(tmp_path / "folders", range(10), 16, world.TRAIN)
    writer.write_zips(tmp_path / "zips", range(10), 16, world.TRAIN, folders_per_zip=4)
    zips = instructpix2pix.read(str(tmp_path / "zips"))
    assert [(name, len(folders)) for name, folders in zips.parts] == [
        ("shard-00.zip", 4),
        ("shard-01.zip", 4),
        ("shard-02.zip", 1),
    ]
    assert list(zips) == list(instructpix2pix.read(str(tmp_path / "folders")))


def test_the_pair_is_drawn_from_the_id(tmp_path: Path) -> None:
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
        split: instructpix2pix.read_list(str(tmp_path / "seeds.json"), split) for split in ("train", "val", "test")
    }
    assert [len(folders) for folders in splits.values()] == [36, 2, 3]
    assert [folder.name for folders in splits.values() for _, folder in folders] == [f"{n:07d}" for n in range(41)]
    assert splits["test"][-1][0] == "instructpix2pix/test/0000040"
    with pytest.raises(rows.CorpusError, match="has no split 'dev'"):
        instructpix2pix.read_folders(str(tmp_path), "dev")


def test_the_generators_own_prompt_files_are_read_too() -> None:
    for name in ("input", "caption"):
        prompt = json.dumps({name: "a cat", "edit": " Make it red. ", "output": "a red cat"}).encode()
        assert sample_of(folder_of(prompt=prompt)).instruction == "Make it red."


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (folder_of(prompt=b"{"), "prompt.json is not JSON"),
        (folder_of(prompt=b"[]"), "prompt.json: found []"),
        (folder_of(prompt=b'{"edit": " "}'), "write an object whose 'edit' is a text"),
    ],
)
def test_bad_folders_become_bad_rows(files: dict[str, bytes], message: str) -> None:
    sample = sample_of(files)
    assert sample.error.startswith("instructpix2pix/train/0000003: ") and message in sample.error
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


def test_clutter_beside_and_in_the_zips_is_counted(tmp_path: Path) -> None:
    writer.write_zips(tmp_path, range(4), 16, world.TRAIN)
    expected = list(instructpix2pix.read(str(tmp_path)))
    (tmp_path / "._shard-00.zip").write_bytes(b"Mac OS X")
    with zipfile.ZipFile(tmp_path / "shard-00.zip", "a") as archive:
        for name in ("__MACOSX/0000000/._prompt.json", "0000000/.DS_Store"):
            archive.writestr(name, b"no data")
    corpus = instructpix2pix.read(str(tmp_path))
    assert list(corpus) == expected and corpus.skipped == {rows.CLUTTER_REASON: 3}


@pytest.mark.parametrize("prefix", ["./", "shard-00.v1/"])
def test_a_zip_may_hold_its_folders_below_another(tmp_path: Path, prefix: str) -> None:
    writer.write_zips(tmp_path, range(4), 16, world.TRAIN)
    expected = list(instructpix2pix.read(str(tmp_path)))
    path = tmp_path / "shard-00.zip"
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(prefix + name, content)
    assert list(instructpix2pix.read(str(tmp_path))) == expected


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


@pytest.mark.parametrize(
    ("content", "message"),
    [("{}", "found a dict; it holds a list"), ("[]", "none is of split 'train'")],
)
def test_other_contents_than_a_list_of_folders_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "seeds.json").write_text(content)
    with pytest.raises(rows.CorpusError, match=message):
        instructpix2pix.read(str(tmp_path))
