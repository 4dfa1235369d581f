import csv
import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fireedit.platform import images
from fireedit.platform.data.corpora import pairs, rows
from fireedit.platform.data.sample import Sample

SOURCE, TARGET = (images.encode_png(np.full((8, 12, 3), value, np.uint8)) for value in (10, 200))
MASK = images.encode_png(np.repeat([[0, 0, 255, 255]] * 4, 3, axis=1).astype(np.uint8))
"""White in the right half."""
PICTURE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def opened(root: Path, split: str = "train", **columns: str) -> rows.Corpus:
    return pairs.read(str(root), split, corpus="mine", columns=columns)


def write_folder(folder: Path, records: Sequence[Mapping[str, Any]], metadata: str = "metadata.jsonl") -> Path:
    """Write a folder of three pictures and these records."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    for name, data in (("before.png", SOURCE), ("after.png", TARGET), ("mask.png", MASK)):
        (folder / "pictures" / name).write_bytes(data)
    with (folder / metadata).open("w", newline="", encoding="utf-8") as file:
        if metadata.endswith(".csv"):
            writer = csv.DictWriter(file, list(records[0]))
            writer.writeheader()
            writer.writerows(records)
        else:
            file.writelines(json.dumps(record) + "\n" for record in records)
    return folder


def record(source: str = "source", instruction: str = "instruction", target: str = "target", **more: str) -> dict:
    return {source: "pictures/before.png", instruction: "Make it bright, now.", target: "pictures/after.png", **more}


def write_parquet(path: Path, **columns: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def embedded(data: bytes) -> pa.Array:
    return pa.array([{"bytes": data, "path": None}], PICTURE)


def assert_is_the_pair(sample: Sample, boxes: tuple = ()) -> None:
    assert (sample.error, sample.corpus, sample.task) == ("", "mine", "edit")
    assert (sample.source, sample.target, sample.boxes) == (SOURCE, TARGET, boxes)
    assert sample.instruction == "Make it bright, now." and sample.id.startswith("mine/train/")


@pytest.mark.parametrize("metadata", pairs.METADATA)
@pytest.mark.parametrize("subfolder", ["", "train"])
def test_a_folder_with_metadata_is_read(metadata: str, subfolder: str, tmp_path: Path) -> None:
    write_folder(tmp_path / subfolder, [record(mask="pictures/mask.png")], metadata)
    corpus = pickle.loads(pickle.dumps(opened(tmp_path)))
    (sample,) = corpus
    assert_is_the_pair(sample, boxes=((0.5, 0, 1, 1),))
    assert corpus.settings["columns"] == {name: name for name in ("source", "instruction", "target", "mask")}


@pytest.mark.parametrize("metadata", pairs.METADATA)
def test_a_byte_order_mark_and_empty_lines_are_none_of_the_data(metadata: str, tmp_path: Path) -> None:
    path = write_folder(tmp_path, [record()], metadata) / metadata
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b"\r\n\r\n")
    (sample,) = opened(tmp_path)
    assert_is_the_pair(sample)


@pytest.mark.parametrize(
    "names",
    [
        ("input_image", "edit_prompt", "edited_image"),
        ("original_image", "prompt", "target_image"),
        ("original_image_file_name", "edit_prompt", "edited_image_file_name"),
        ("file_name", "instruction", "target"),
        ("source", "instruction", "file_name"),
    ],
)
def test_usual_names_are_found(names: tuple[str, str, str], tmp_path: Path) -> None:
    write_folder(tmp_path, [record(*names, original_prompt="a dark picture")])
    (sample,) = opened(tmp_path)
    assert_is_the_pair(sample)


def test_named_columns_win_over_usual_ones(tmp_path: Path) -> None:
    write_folder(tmp_path, [record("before", "text", "after") | {"instruction": "ignored", "source": "nowhere.png"}])
    (sample,) = opened(tmp_path, **pairs.parse_columns("source=before,instruction=text, target=after"))
    assert_is_the_pair(sample)


@pytest.mark.parametrize("name", ["pairs.parquet", "data/train-00000-of-00001.parquet", "train/0000.parquet"])
@pytest.mark.parametrize("kind", [PICTURE, pa.binary(), pa.large_binary()])
def test_parquet_files_are_read(name: str, kind: pa.DataType, tmp_path: Path) -> None:
    def wrap(data: bytes) -> pa.Array:
        return embedded(data) if kind is PICTURE else pa.array([data], kind)

    columns = {"input_image": wrap(SOURCE), "edit_prompt": ["Make it bright, now."], "edited_image": wrap(TARGET)}
    write_parquet(tmp_path / name, **columns, mask=wrap(MASK), score=[0.5])
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", **columns)
    corpus = pickle.loads(pickle.dumps(opened(tmp_path)))
    (sample,) = corpus
    assert_is_the_pair(sample, boxes=((0.5, 0, 1, 1),))
    assert len(opened(tmp_path, "test").parts) == 1


def test_a_later_parquet_file_without_a_mask_is_read_and_one_without_pictures_is_a_bad_row(tmp_path: Path) -> None:
    columns = {"source": embedded(SOURCE), "instruction": ["Make it bright, now."], "target": embedded(TARGET)}
    write_parquet(tmp_path / "0.parquet", **columns, mask=embedded(MASK))
    write_parquet(tmp_path / "1.parquet", **columns)
    write_parquet(tmp_path / "2.parquet", source=embedded(SOURCE), instruction=["?"])
    first, second, third = opened(tmp_path)
    assert_is_the_pair(first, boxes=((0.5, 0, 1, 1),))
    assert_is_the_pair(second)
    assert "2.parquet has no column target" in third.error


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"source": "pictures/lost.png"}, "pictures/lost.png: no such file"),
        ({"mask": "pictures/lost.png"}, "pictures/lost.png: no such file"),
        ({"target": "../secret.png"}, "found the path '../secret.png'"),
        ({"target": None}, "found the path ''"),
        ({"target": 7}, "found the path ''"),
        ({"instruction": ""}, "instruction: found no text"),
        ({"instruction": None}, "instruction: found no text"),
        ({"source": "metadata.jsonl"}, "metadata.jsonl: found .* send a PNG"),
    ],
)
def test_a_record_that_cannot_be_read_is_one_bad_row(changed: dict, error: str, tmp_path: Path) -> None:
    write_folder(tmp_path, [record(mask="pictures/mask.png") | changed, record(mask="")])
    bad, good = opened(tmp_path)
    assert [sample.read_from for sample in (bad, good)] == [(f"{tmp_path}/metadata.jsonl", n) for n in (1, 2)]
    with pytest.raises(ValueError, match=error):
        raise ValueError(bad.error)
    assert_is_the_pair(good)


def test_rows_tell_the_line_or_row_that_they_were_read_from(tmp_path: Path) -> None:
    lines = json.dumps(record() | {"instruction": ""}) + "\n\n"
    folder = write_folder(tmp_path / "lines", [record()])
    (folder / "metadata.jsonl").write_text(lines * 3)
    assert [sample.read_from for sample in opened(folder)] == [(f"{folder}/metadata.jsonl", n) for n in (1, 3, 5)]
    table = write_folder(tmp_path / "table", [record(), {**record(), "instruction": "Two\nlines."}], "metadata.csv")
    assert [sample.read_from for sample in opened(table)] == [(f"{table}/metadata.csv", n) for n in (2, 4)]
    columns = {name: pa.array([{"bytes": SOURCE, "path": None}] * 2, PICTURE) for name in ("source", "target")}
    write_parquet(tmp_path / "train.parquet", **columns, instruction=["", ""])
    first, second = opened(tmp_path)
    assert first.error and [first.read_from, second.read_from] == [(f"{tmp_path}/train.parquet", n) for n in (1, 2)]


@pytest.mark.parametrize(
    ("metadata", "data", "error"),
    [
        ("metadata.csv", b"source,target\na.png,Make it bright, now.,b.png\n", "metadata.csv, line 2.*the header's 2"),
        ("metadata.csv", b"source,instruction,target\na.png\n", "metadata.csv, line 2.*the header's 3"),
        ("metadata.csv", b"source,instruction,target\n", "metadata.csv holds no records"),
        ("metadata.csv", b"file_name,caption\na.png,b\n", "source or instruction or target among file_name, caption;"),
        ("metadata.csv", b"file_name,prompt\na.png,b\n", "source or target among file_name, prompt; .*source=COLUMN"),
        ("metadata.jsonl", b'{"source": "a.png"}\n[1]\n', "metadata.jsonl, line 2: found '\\[1\\]'"),
        ("metadata.jsonl", b'{"source": "a.png"}\n\n{"source\n', "metadata.jsonl, line 3 is not JSON"),
        ("metadata.jsonl", b'{"source": "\xff"}\n', "metadata.jsonl is not UTF-8"),
    ],
)
def test_metadata_that_is_not_a_table_of_pairs_is_refused(
    metadata: str, data: bytes, error: str, tmp_path: Path
) -> None:
    (tmp_path / metadata).write_bytes(data)
    with pytest.raises(rows.CorpusError, match=error):
        opened(tmp_path)


def test_a_folder_without_pairs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(rows.CorpusError, match="no metadata.jsonl or metadata.csv.*'train'; found notes.txt"):
        opened(tmp_path)
    write_folder(tmp_path, [record()])
    with pytest.raises(rows.CorpusError, match="of the split 'test'"):
        opened(tmp_path, "test")
    write_folder(tmp_path, [record()], "metadata.csv")
    with pytest.raises(rows.CorpusError, match="holds metadata.csv and metadata.jsonl; keep one"):
        opened(tmp_path)


def test_named_columns_must_be_there_and_hold_pictures(tmp_path: Path) -> None:
    columns = {"source": embedded(SOURCE), "instruction": ["?"], "target": embedded(TARGET), "area": ["left"]}
    write_parquet(tmp_path / "pairs.parquet", **columns)
    with pytest.raises(rows.CorpusError, match="has no column before; found source, instruction, target, area"):
        opened(tmp_path, source="before")
    for role in ("source", "mask"):
        with pytest.raises(rows.CorpusError, match="the column area holds no pictures"):
            opened(tmp_path, **{role: "area"})


@pytest.mark.parametrize("text", ["sorce=before", "source", "source=", "source=a,,target=b"])
def test_columns_that_name_no_role_are_refused(text: str) -> None:
    with pytest.raises(rows.CorpusError, match="--columns: found .*; write source=COLUMN,instruction=COLUMN"):
        pairs.parse_columns(text)
