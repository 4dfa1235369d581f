"""ReasonEdit: SmartEdit's edits that must be understood, each with several instructions that mean the same.

Source: github.com/TencentARC/SmartEdit, `SyntheticData_info_new.json`: an object keyed "0000", "0001", ...
"""

import functools
import random
from typing import Any

from fireedit.platform.data.corpora import keyed_json, reasonedit_benchmark, rows
from fireedit.platform.data.sample import Sample

CORPUS = reasonedit_benchmark.CORPUS
FILE = "SyntheticData_info_new.json"


def read(root: str, split: str = "train") -> rows.Corpus:
    """Every edit of ROOT/SyntheticData_info_new.json, whose pictures lie below ROOT; "test" is the benchmark."""
    rows.require_split(CORPUS, split, ["train", "test"])
    if split == "test":
        return reasonedit_benchmark.read(root)
    return rows.in_parts(list(read_records(root).items()), functools.partial(read_edit, root))


def read_records(root: str) -> dict[str, Any]:
    """The edits by their keys."""
    path = rows.require(root, FILE, "the edits of ReasonEdit")
    return keyed_json.read_object(path, "an object of edits keyed '0000', '0001', ...")


def read_edit(root: str, keyed: tuple[str, Any]) -> Sample:
    """The sample of one edit; which of its instructions is drawn from its id, so it is the same on every visit."""
    key, record = keyed
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
