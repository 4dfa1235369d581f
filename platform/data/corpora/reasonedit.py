"""ReasonEdit: SmartEdit's edits that need reasoning, for training and as a benchmark.

The training set is `SyntheticData_info_new.json`, an object keyed "0000", "0001", ..., each edit with several
instructions of one meaning. Every instruction is a row: SmartEdit draws one of them anew at each visit, while rows are
prepared once. The first instruction of an edit names its object; it is the plain form of the others.

The benchmark is pictures in six folders, the instruction of each and the mask of its object; it has no targets. A
folder's text has one line per picture, `instruction CLIP: noun`, in the order of the pictures' names. An edit is
measured by that noun inside the mask, and by the pixels outside it.
Source: github.com/TencentARC/SmartEdit, test/DS_SmartEdit_test.py and metrics_evaluation.py, except that a mask is what
is brighter than half, without the noise that JPEG leaves around it.
"""

import dataclasses
import functools
from collections import Counter
from collections.abc import Iterator
from typing import Any

from fireedit.platform import storage
from fireedit.platform.data.corpora import masks, rows
from fireedit.platform.data.sample import Sample

CORPUS = "reasonedit"
FILE = "SyntheticData_info_new.json"
TEXTS = {
    "1-Left-Right": "Left_Right_text.txt",
    "2-Relative-Size": "Size_text.txt",
    "3-Mirror": "Mirror_text.txt",
    "4-Color": "Color_text.txt",
    "5-Multiple-Objects": "MultipleObjects_text.txt",
    "6-Reasoning": "Reason_test.txt",
}
"""Folders of the benchmark, each with the file of its instructions."""
MARK = "CLIP:"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReasonEditCase:
    """Picture of the benchmark and its request, before any pixel is read."""

    category: str
    """Folder of the picture."""
    picture: str
    mask: str
    """Files, relative to the benchmark's folder; no mask is an empty name."""
    line: str

    @property
    def instruction(self) -> str:
        return self.line.partition(MARK)[0].strip()

    @property
    def noun(self) -> str:
        """Noun of the object inside the mask once the edit is done, for the CLIP score."""
        return self.line.partition(MARK)[2].strip()


def read(root: str, split: str = "train") -> rows.Corpus:
    """Open every instruction of ROOT/SyntheticData_info_new.json, pictures below ROOT; "test" is the benchmark."""
    rows.require_split(CORPUS, split, ["train", "test"])
    if split == "test":
        skipped: Counter[str] = Counter()
        return rows.in_parts(find_cases(root, skipped), functools.partial(read_case, root), skipped)
    path = rows.require(root, FILE, "the edits of ReasonEdit")
    records = rows.read_object(path, "an object of edits keyed '0000', '0001', ...")
    items = [(f"{CORPUS}/train/{key}", record) for key, record in records.items()]
    return rows.in_parts(items, functools.partial(read_edit, root))


def read_edit(root: str, name: str, record: Any) -> Iterator[Sample]:
    """Make every instruction of one record a sample."""
    instructions = _instructions(record)
    paths = [rows.inside(rows.field(record, name, str)) for name in ("origin_img_path", "target_img_path")]
    source, target = (rows.read_picture(root, path) for path in paths)
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


def find_cases(root: str, skipped: Counter[str]) -> list[tuple[str, ReasonEditCase]]:
    """List the ids and cases of the six folders, in order; files that are no data are counted in `skipped`.

    Raises:
        CorpusError: a folder or its text is missing, or has not as many lines as the folder has pictures.
    """
    return [case for category in TEXTS for case in _in_folder(root, category, skipped)]


def read_case(root: str, name: str, case: ReasonEditCase) -> Iterator[Sample]:
    """Make one case a sample, with the box of its mask."""
    if not case.instruction or not case.noun or "\ufffd" in case.line:
        text = f"{case.category}/{TEXTS[case.category]}"
        raise rows.BadRow(f"{text}: found {case.line!r:.60}; write `instruction {MARK} noun` in UTF-8")
    source, boxes = rows.read_picture(root, case.picture), masks.read_boxes(root, case.mask, masks.bright)
    yield Sample(id=name, corpus=CORPUS, task="edit", instruction=case.instruction, source=source, boxes=boxes)


def _instructions(record: Any) -> list[str]:
    """List the distinct instructions in the file's order."""
    texts: Any = record.get("instruction") if isinstance(record, dict) else record
    if isinstance(texts, list) and texts and all(isinstance(text, str) and text.strip() for text in texts):
        return list(dict.fromkeys(text.strip() for text in texts))
    raise rows.BadRow(f"found {texts!r:.40}; write an object whose 'instruction' is a list of texts")


def _in_folder(root: str, category: str, skipped: Counter[str]) -> list[tuple[str, ReasonEditCase]]:
    path = rows.require(root, f"{category}/{TEXTS[category]}", "the instructions of ReasonEdit's benchmark")
    lines = [line.strip() for line in rows.read_lines(path)]
    while lines and not lines[-1]:
        lines.pop()
    files = rows.data_names(storage.join(root, category), skipped)
    names = [name.removesuffix(".png") for name in files if name.endswith(".png")]
    if len(names) > len(lines):
        beside = rows.companions(names)
        names = [name for name in names if name not in beside]
        skipped[rows.COMPANION_REASON] += len(beside)
    if len(names) != len(lines) or not names:
        raise rows.CorpusError(
            f"{path} has {len(lines)} lines for {len(names)} pictures *.png; write one line per picture, in their order"
        )
    items = []
    for name, line in zip(names, lines, strict=True):
        mask = f"{category}/{name}_mask.jpg" if f"{name}_mask.jpg" in files else ""
        case = ReasonEditCase(category=category, picture=f"{category}/{name}.png", mask=mask, line=line)
        items.append((f"{CORPUS}/test/{category}/{name}", case))
    return items
