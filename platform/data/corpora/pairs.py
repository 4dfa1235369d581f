"""Pairs: edit pairs of your own, in a folder with metadata.jsonl or metadata.csv, or in parquet files.

The folder is Hugging Face's imagefolder: each record of the metadata names picture files, relative to its folder, and
holds the instruction. Parquet files hold pictures as {bytes, path} or as bytes. Columns are named by the caller or
recognized by their usual names.
Source: huggingface.co/docs/datasets/image_dataset; column names of diffusers' examples/instruct_pix2pix.
"""

import csv
import dataclasses
import functools
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fireedit.platform import storage
from fireedit.platform.data.corpora import parquet, rows
from fireedit.platform.data.sample import Sample

METADATA = ("metadata.jsonl", "metadata.csv")
SPLITS = ("train", "validation", "val", "dev", "test")
"""Beginnings of file names that say which split a parquet file is of."""
FILE_NAME = "file_name"
"""Imagefolder's own column for a picture; read as the source or the target if only that one has no other column."""
REQUIRED = ("source", "instruction", "target")
USUAL_NAMES = {
    "source": ("original_image", "input_image", "source_image", "source_img", "source"),
    "instruction": ("edit_prompt", "instruction", "prompt"),
    "target": ("edited_image", "target_image", "target_img", "output_image", "target"),
    "mask": ("mask_image", "mask_img", "mask"),
}
"""Column names that are recognized by role, best first; in metadata also with `_file_name` behind them. A mask, which
is optional, is white where the edit takes place."""


def read(root: str, split: str = "train", *, corpus: str, columns: Mapping[str, str]) -> rows.Corpus:
    """Open the edit pairs in ROOT or ROOT/SPLIT.

    Args:
        corpus: name that the samples get.
        columns: column of `source`, `instruction`, `target` and `mask`; the others are recognized by their usual names.
    Raises:
        CorpusError: there is no metadata and no parquet file of this split, or a column is missing.
    """
    folders = [storage.join(root, split), *([root] if split == "train" else [])]
    for folder in folders:
        metadata = [name for name in storage.names(folder) if name in METADATA]
        if len(metadata) > 1:
            raise rows.CorpusError(f"{folder} holds {' and '.join(metadata)}; keep one of them")
        if metadata:
            return _open_folder(folder, metadata[0], f"{corpus}/{split}", columns)
    return _open_parquet(root, f"{corpus}/{split}", columns)


def parse_columns(text: str) -> dict[str, str]:
    """Parse `source=before,instruction=text,target=after`.

    Raises:
        CorpusError: a part is not ROLE=COLUMN, or names another role.
    """
    columns = {}
    for part in text.split(",") if text else ():
        role, mark, column = part.strip().partition("=")
        if role not in USUAL_NAMES or not mark or not column:
            wanted = ",".join(f"{name}=COLUMN" for name in USUAL_NAMES)
            raise rows.CorpusError(f"--columns: found {part!r}; write {wanted}, or some of these")
        columns[role] = column
    return columns


def find_columns(path: str, present: Sequence[str], named: Mapping[str, str]) -> dict[str, str]:
    """Choose the column of each role: the one named, else one with a usual name; that of the mask may be missing.

    Raises:
        CorpusError: the file lacks one that is named, or has none that is recognized.
    """
    if absent := [column for column in named.values() if column not in present]:
        raise rows.CorpusError(f"{path} has no column {', '.join(absent)}; found {', '.join(present)}")
    chosen = dict(named)
    for role, usual in USUAL_NAMES.items():
        names = [name for stem in usual for name in (stem, f"{stem}_{FILE_NAME}") if name in present]
        if role not in chosen and names:
            chosen[role] = names[0]
    missing = [role for role in REQUIRED if role not in chosen]
    if missing in (["source"], ["target"]) and FILE_NAME in present and FILE_NAME not in chosen.values():
        chosen[missing.pop()] = FILE_NAME
    if missing:
        wanted = ",".join(f"{role}=COLUMN" for role in missing)
        raise rows.CorpusError(
            f"{path}: found no column of {' or '.join(missing)} among {', '.join(present)}; write --columns {wanted}"
        )
    return chosen


def read_records(path: str) -> list[dict[str, Any]]:
    """Read the records of a file of JSON lines or, if its name ends in .csv, of CSV, such as metadata.jsonl.

    Raises:
        CorpusError: the file is not UTF-8, a line cannot be read, or there is none.
    """
    return [record for _, record in _numbered_records(path)]


def _numbered_records(path: str) -> list[tuple[int, dict[str, Any]]]:
    """Read the records of a metadata file as `read_records`, each with the line that it ends in, from 1."""
    try:
        text = rows.load(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise rows.CorpusError(f"{path} is not UTF-8: {error}; save it as UTF-8") from None
    parse = _parse_csv if storage.filesystem(path)[1].endswith(".csv") else _parse_json_lines
    records = list(parse(path, text))
    if not records:
        raise rows.CorpusError(f"{path} holds no records; write one for each pair")
    return records


def _open_parquet(root: str, name: str, columns: Mapping[str, str]) -> rows.Corpus:
    skipped: Counter[str] = Counter()
    paths = _parquet_files(root, name.partition("/")[2], skipped)
    chosen = find_columns(paths[0], parquet.column_names(paths[0]), columns)
    if "mask" in columns:
        parquet.column_names(paths[0], [columns["mask"]], pictures=[columns["mask"]])
    opened = parquet.open_files(paths, parquet.PairReader(name, chosen), skipped)
    return dataclasses.replace(opened, settings={"columns": chosen})


def _open_folder(folder: str, metadata: str, name: str, columns: Mapping[str, str]) -> rows.Corpus:
    path = storage.join(folder, metadata)
    records = _numbered_records(path)
    present = list(dict.fromkeys(column for _, record in records for column in record))
    chosen = find_columns(path, present, columns)
    read_part = functools.partial(map, functools.partial(_read_line, folder, metadata, name, chosen))
    return rows.Corpus(rows.sliced(records), read_part, settings={"columns": chosen})


def _parse_json_lines(path: str, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                record = json.loads(line)
            except ValueError as error:
                raise rows.CorpusError(f"{path}, line {number} is not JSON: {error}; write one object a line") from None
            if not isinstance(record, dict):
                raise rows.CorpusError(f"{path}, line {number}: found {line!r:.40}; write one object a line")
            yield number, record


def _parse_csv(path: str, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    for record in reader:
        if None in record or None in record.values():
            raise rows.CorpusError(
                f"{path}, line {reader.line_num}: found more or fewer fields than the header's "
                f"{len(reader.fieldnames or ())}; put texts that hold commas in double quotes"
            )
        yield reader.line_num, record


def _parquet_files(root: str, split: str, skipped: Counter[str]) -> list[str]:
    """List the parquet files of a split in ROOT/SPLIT, ROOT/data or ROOT; those that are no data go into `skipped`.

    Files in the latter two are of the split that their names begin with, or of `train`.
    """
    for folder in (storage.join(root, split), storage.join(root, "data"), root):
        names = [name for name in rows.data_names(folder, skipped) if name.endswith(".parquet")]
        if folder != storage.join(root, split):
            unnamed = [name for name in names if not name.startswith(SPLITS)]
            names = [name for name in names if name.startswith(split)] or (unnamed if split == "train" else [])
        if names:
            return [storage.join(folder, name) for name in names]
    raise rows.CorpusError(
        f"{root} holds no {' or '.join(METADATA)} and no parquet files of the split {split!r}; found "
        f"{rows.listing(root)}; write --source with the folder of the pairs"
    )


def _read_line(
    folder: str, metadata: str, name: str, columns: Mapping[str, str], line: tuple[int, dict[str, Any]]
) -> Sample:
    """Make a sample of a line of the metadata, which it names."""
    number, record = line
    sample = _read_files(folder, metadata, name, columns, record)
    return dataclasses.replace(sample, read_from=(storage.join(folder, metadata), number))


def _read_files(folder: str, metadata: str, name: str, columns: Mapping[str, str], record: dict[str, Any]) -> Sample:
    """Make a sample of a record whose pictures are paths below `folder`; errors name the metadata's file."""
    paths = {column: record.get(column) or "" for role, column in columns.items() if role != "instruction"}
    try:
        pictures = {
            column: rows.read_picture(folder, rows.inside(path if isinstance(path, str) else ""))
            for column, path in paths.items()
            if path or column != columns.get("mask")
        }
    except rows.BadRow as bad:
        file = f"{name}/{paths[columns['source']]}"
        return Sample(id=file, corpus=name.partition("/")[0], task="edit", error=f"{metadata}: {bad}")
    missing = dict.fromkeys(columns.values())
    return parquet.PairReader(name, columns).to_sample(missing | record | pictures)
