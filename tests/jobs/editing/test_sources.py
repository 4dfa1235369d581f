"""Rows of folders and parquet files: ids, seeds, instructions, and reasons for rows that cannot be edited."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fireedit.jobs.editing.sources import (
    EditRow,
    Sources,
    SourcesError,
    are_many,
    list_folder,
    open_parquet,
    parquet_files,
    require_seed,
    seed_of,
    write_listing,
)
from fireedit.platform.images import encode_png
from tests.factories import picture

PNG = encode_png(picture(1))


def read_all(sources: Sources, batch: int = 2) -> list[EditRow]:
    return [row for group in sources.groups for rows in sources.read(group, range(group.rows), batch) for row in rows]


def write_pictures(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(PNG)


def listed(folder: Path, instructions: str = "", instruction: str = "") -> list[EditRow]:
    write_listing(str(folder / "out.listing"), list_folder(str(folder), instructions))
    sources = open_parquet([str(folder / "out.listing")], str(folder), 0, instruction)
    return read_all(Sources(str(folder), sources.groups, sources.columns, instruction, 0))


def write_parquet(path: Path, columns: dict[str, list[Any]], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)
    return path


def test_a_folder_is_listed_with_those_below_it_and_without_what_is_no_picture(tmp_path: Path) -> None:
    write_pictures(tmp_path, "b.png", "a/c.JPG", "a/c.png", ".hidden.png", "notes.txt")
    rows = listed(tmp_path, instruction="make it red")
    assert [(row.row, row.id, row.instruction) for row in rows] == [
        (0, "a/c", "make it red"),
        (1, "a/c-2", "make it red"),
        (2, "b", "make it red"),
    ]
    assert all(row.data == PNG and not row.error for row in rows)


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_picture_may_have_several_instructions(tmp_path: Path, suffix: str) -> None:
    write_pictures(tmp_path, "a.png")
    records = [{"file_name": "a.png", "prompt": text, "seed": seed} for text, seed in (("red", "7"), ("blue", ""))]
    path = tmp_path / f"texts.{suffix}"
    with path.open("w", newline="") as file:
        if suffix == "csv":
            writer = csv.DictWriter(file, records[0])
            writer.writeheader()
            writer.writerows(records)
        else:
            file.writelines(json.dumps(record) + "\n" for record in records)
    rows = listed(tmp_path, str(path))
    assert [(row.id, row.instruction, row.seed) for row in rows] == [
        ("a", "red", 7),
        ("a-2", "blue", seed_of("a-2", 0)),
    ]


def test_parquet_holds_pictures_as_bytes_as_hugging_faces_struct_or_as_paths(tmp_path: Path) -> None:
    write_pictures(tmp_path, "a.png")
    values = {"bytes": [PNG], "struct": [{"bytes": PNG, "path": None}], "path": ["a.png"]}
    for name, image in values.items():
        write_parquet(tmp_path / f"{name}.parquet", {"image": image, "prompt": ["make it red"]})
    sources = open_parquet(parquet_files(str(tmp_path)), str(tmp_path), 0)
    rows = read_all(sources)
    assert [row.id for row in rows] == ["bytes-000000", "path-000000", "struct-000000"]
    assert [row.row for row in rows] == [0, 1, 2] and all(row.data == PNG for row in rows)


def test_the_columns_id_and_seed_are_used(tmp_path: Path) -> None:
    columns = {"source": [PNG] * 2, "text": ["red"] * 2, "id": [11, 12], "seed": [5, None]}
    path = write_parquet(tmp_path / "a.parquet", columns)
    rows = read_all(open_parquet([str(path)], str(tmp_path), 3, column="text", image_column="source"))
    assert [(row.id, row.seed) for row in rows] == [("11", 5), ("12", seed_of("12", 3))]


def test_batches_are_the_same_whatever_is_done(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", {"image": [PNG] * 7, "prompt": ["x"] * 7}, row_group_size=4)
    sources = open_parquet([str(path)], str(tmp_path), 0)
    assert [group.rows for group in sources.groups] == [4, 3]
    batches = [[row.row for row in rows] for group in sources.groups for rows in sources.read(group, range(4), 2)]
    assert batches == [[0, 1], [2, 3], [4, 5], [6]]
    assert [[row.row for row in rows] for rows in sources.read(sources.groups[0], [2, 3], 2)] == [[2, 3]]


def test_rows_that_cannot_be_read_carry_their_reason(tmp_path: Path) -> None:
    images, texts = ["gone.png", None, "a.png"], ["red", "red", " "]
    path = write_parquet(tmp_path / "a.parquet", {"image": images, "prompt": texts})
    errors = [row.error for row in read_all(open_parquet([str(path)], str(tmp_path), 0))]
    assert "gone.png" in errors[0] and "no picture" in errors[1] and "no instruction" in errors[2]


def test_a_damaged_row_group_is_rows_with_a_reason(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", {"image": [PNG] * 4, "prompt": ["red"] * 4})
    sources = open_parquet([str(path)], str(tmp_path), 0)
    data = bytearray(path.read_bytes())
    data[4:200] = bytes(196)
    path.write_bytes(data)
    rows = read_all(sources)
    assert [row.row for row in rows] == [0, 1, 2, 3] and all(row.error for row in rows)


@pytest.mark.parametrize("ids", [["a", "a"], ["../a", "b"], ["", "b"], [None, "b"], ["x" * 300, "b"]])
def test_ids_that_name_no_file_of_their_own_are_refused(tmp_path: Path, ids: list[str]) -> None:
    path = write_parquet(tmp_path / "a.parquet", {"image": [PNG] * 2, "prompt": ["red"] * 2, "id": ids})
    with pytest.raises(SourcesError, match="id"):
        open_parquet([str(path)], str(tmp_path), 0).require_unique_ids()


def test_missing_columns_and_pictures_are_one_sentence(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", {"image": [PNG], "caption": ["red"]})
    with pytest.raises(SourcesError, match="no instruction among the columns image, caption; write --column NAME"):
        open_parquet([str(path)], str(tmp_path), 0)
    with pytest.raises(SourcesError, match="holds no pictures"):
        list_folder(str(tmp_path), "")


def test_parquet_files_and_folders_are_many(tmp_path: Path) -> None:
    assert are_many(str(tmp_path)) and are_many("s3://bucket/a.parquet?scheme=http")
    assert not are_many(str(tmp_path / "a.png"))


def test_seeds_depend_on_the_id_and_the_jobs_seed_alone() -> None:
    assert len({seed_of("a", 0), seed_of("b", 0), seed_of("a", 1)}) == 3


def test_a_seed_that_is_no_number_sets_its_row_aside(tmp_path: Path) -> None:
    columns = {"image": [PNG] * 3, "prompt": ["x"] * 3, "seed": [float("nan"), 7.0, None]}
    rows = read_all(open_parquet([str(write_parquet(tmp_path / "a.parquet", columns))], str(tmp_path), 0))
    assert rows[0].error == f"seed: found nan; write a whole number from 0 to {2**63 - 1}"
    assert rows[1].seed == 7 and rows[2].data == PNG and not rows[1].error + rows[2].error


@pytest.mark.parametrize("seed", [-1, 1.7, 2**63, "-1", "1.5", "\u0663", "seven"])
def test_other_seeds_are_refused(seed: object) -> None:
    with pytest.raises(SourcesError, match="line 3: found .*; write a whole number from 0 to 9223372036854775807"):
        require_seed(seed, "line 3")
    assert [require_seed(each, "") for each in (0, "7", 7.0, 2**63 - 1)] == [0, 7, 7, 2**63 - 1]


def test_results_of_earlier_jobs_below_the_source_are_no_sources(tmp_path: Path) -> None:
    write_pictures(tmp_path, "a.png", "pink/edited/a.png", "pinker.png")
    (tmp_path / "pink/edit.json").write_text("{}")
    write_parquet(tmp_path / "pink/sources.parquet", {"image": ["a.png"]})
    assert [row.id for row in listed(tmp_path, instruction="make it red")] == ["a", "pinker"]
    assert parquet_files(str(tmp_path)) == []


def test_a_later_file_without_a_column_sets_its_rows_aside(tmp_path: Path) -> None:
    files = [write_parquet(tmp_path / "a.parquet", {"image": [PNG], "prompt": ["x"]})]
    files.append(write_parquet(tmp_path / "b.parquet", {"picture": [PNG], "prompt": ["x"]}))
    first, second = read_all(open_parquet([str(file) for file in files], str(tmp_path), 0))
    assert not first.error and "image" in second.error
