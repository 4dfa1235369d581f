"""ReasonEdit: SmartEdit's edits that must be understood, each with several instructions that mean the same.

Source: github.com/TencentARC/SmartEdit, `SyntheticData_info_new.json`: an object keyed "0000", "0001", ...
"""

import functools
import json
import random
from typing import Any

import ray.data

from fireedit.platform import storage
from fireedit.platform.data.corpora import rows
from fireedit.platform.data.sample import Sample

CORPUS = "reasonedit"
FILE = "SyntheticData_info_new.json"


def read(root: str, split: str = "train") -> ray.data.Dataset:
    """Every edit of ROOT/SyntheticData_info_new.json as a row; its pictures lie below ROOT."""
    rows.require_split(CORPUS, split, ["train"])
    items = [{"key": key, "record": json.dumps(record)} for key, record in read_records(root).items()]
    return rows.lazy_rows(items, functools.partial(_to_row, root=root))


def read_records(root: str) -> dict[str, Any]:
    """The edits by their keys."""
    path = rows.require(root, FILE, "the edits of ReasonEdit")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise rows.CorpusError(f"{path}: the key {twice!r} stands twice; fetch it again")
        return found

    try:
        records = json.loads(storage.read_bytes(path), object_pairs_hook=unique)
    except rows.CorpusError:
        raise
    except ValueError as error:
        raise rows.CorpusError(f"{path} is not JSON: {error}; fetch it again") from None
    if not isinstance(records, dict) or not records:
        found = "an empty object" if records == {} else f"a {type(records).__name__}"
        raise rows.CorpusError(f"{path}: found {found}; write an object of edits keyed '0000', '0001', ...")
    return records


def read_edit(root: str, key: str, record: Any) -> Sample:
    """The sample of one edit; which of its instructions is drawn from its id, so it is the same on every visit."""
    name = f"{CORPUS}/train/{key}"
    instruction, source, target, error = "", b"", b"", ""
    try:
        instruction = random.Random(name).choice(_instructions(record))
        source = rows.read_picture(root, _path(record, "origin_img_path"))
        target = rows.read_picture(root, _path(record, "target_img_path"))
    except rows.BadRow as bad:
        source, target, error = b"", b"", f"{FILE}, edit {key!r}: {bad}"
    return Sample(
        id=name, corpus=CORPUS, task="edit", instruction=instruction, source=source, target=target, error=error
    )


def _instructions(record: Any) -> list[str]:
    found: Any = record.get("instruction") if isinstance(record, dict) else record
    if isinstance(found, list) and found and all(isinstance(text, str) and text.strip() for text in found):
        return [text.strip() for text in found]
    raise rows.BadRow(f"found {found!r:.40}; write an object whose 'instruction' is a list of texts")


def _path(record: dict[str, Any], name: str) -> str:
    found = record.get(name)
    if not isinstance(found, str):
        raise rows.BadRow(f"found {found!r:.40}; write the path of a picture as {name!r}")
    return rows.inside(found)


def _to_row(item: dict[str, Any], root: str) -> dict[str, Any]:
    return read_edit(root, item["key"], json.loads(item["record"])).row()
