"""ReasonEdit: SmartEdit's edits that must be understood, each with several instructions that mean the same.

Source: github.com/TencentARC/SmartEdit, `SyntheticData_info_new.json`: an object keyed "0000", "0001", ... Every
instruction of an edit is a row: SmartEdit draws one of them anew at each visit, while rows are prepared once. The
first instruction of an edit names its object; it is the plain form of the others.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

from fireedit.platform.data.corpora import keyed_json, reasonedit_benchmark, rows
from fireedit.platform.data.sample import Sample

CORPUS = reasonedit_benchmark.CORPUS
FILE = "SyntheticData_info_new.json"


def read(root: str, split: str = "train") -> rows.Corpus:
    """Every instruction of ROOT/SyntheticData_info_new.json, pictures lie below ROOT; "test" is the benchmark."""
    rows.require_split(CORPUS, split, ["train", "test"])
    if split == "test":
        return reasonedit_benchmark.read(root)
    return rows.Corpus(rows.sliced(list(read_records(root).items())), functools.partial(read_edits, root))


def read_records(root: str) -> dict[str, Any]:
    """The edits by their keys."""
    path = rows.require(root, FILE, "the edits of ReasonEdit")
    return keyed_json.read_object(path, "an object of edits keyed '0000', '0001', ...")


def read_edits(root: str, part: Sequence[tuple[str, Any]]) -> Iterator[Sample]:
    """A sample for every instruction of each keyed record; a bad record is one bad row."""
    for key, record in part:
        name = f"{CORPUS}/train/{key}"
        try:
            instructions = _instructions(record)
            source = rows.read_picture(root, _path(record, "origin_img_path"))
            target = rows.read_picture(root, _path(record, "target_img_path"))
        except rows.BadRow as bad:
            yield Sample(id=name, corpus=CORPUS, task="edit", error=f"{FILE}, edit {key!r}: {bad}")
            continue
        for place, text in enumerate(instructions):
            yield Sample(
                id=f"{name}-{place}",
                corpus=CORPUS,
                task="edit",
                instruction=text,
                plain=instructions[0] if place else "",
                source=source,
                target=target,
            )


def _instructions(record: Any) -> list[str]:
    """All that differ, in the file's order."""
    found: Any = record.get("instruction") if isinstance(record, dict) else record
    if isinstance(found, list) and found and all(isinstance(text, str) and text.strip() for text in found):
        return list(dict.fromkeys(text.strip() for text in found))
    raise rows.BadRow(f"found {found!r:.40}; write an object whose 'instruction' is a list of texts")


def _path(record: dict[str, Any], name: str) -> str:
    found = record.get(name)
    if not isinstance(found, str):
        raise rows.BadRow(f"found {found!r:.40}; write the path of a picture as {name!r}")
    return rows.inside(found)
