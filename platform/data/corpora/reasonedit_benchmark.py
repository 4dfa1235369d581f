"""ReasonEdit's benchmark: pictures in six folders, the instruction of each, and the mask of what it is about.

Nobody drew the targets. An edit is measured by the noun that its line names, inside the mask, and by what stayed as it
was outside. A folder's text has one line per picture, `instruction CLIP: noun`, in the order of the pictures' names.
Source: github.com/TencentARC/SmartEdit, test/DS_SmartEdit_test.py and metrics_evaluation.py, except that a mask is what
is brighter than half, without the noise that JPEG leaves around it.
"""

import dataclasses
import functools

from fireedit.platform import storage
from fireedit.platform.data.corpora import masks, rows
from fireedit.platform.data.sample import NO_IMAGE, Sample

CORPUS = "reasonedit"
TEXTS = {
    "1-Left-Right": "Left_Right_text.txt",
    "2-Relative-Size": "Size_text.txt",
    "3-Mirror": "Mirror_text.txt",
    "4-Color": "Color_text.txt",
    "5-Multiple-Objects": "MultipleObjects_text.txt",
    "6-Reasoning": "Reason_test.txt",
}
"""The folders, each with the file of its instructions."""
MARK = "CLIP:"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One picture and what is asked of it, before any pixel is read."""

    id: str
    category: str
    """The folder that it lies in."""
    picture: str
    mask: str
    """Files, relative to the benchmark's folder; the mask may be missing."""
    line: str

    @property
    def instruction(self) -> str:
        return self.line.partition(MARK)[0].strip()

    @property
    def noun(self) -> str:
        """What should be seen inside the mask once the edit is done, for the CLIP score."""
        return self.line.partition(MARK)[2].strip()


def read(root: str) -> rows.Corpus:
    """Every picture of the six folders below ROOT; the samples have no target."""
    return rows.in_parts(find_cases(root), functools.partial(read_case, root))


def find_cases(root: str) -> list[Case]:
    """What lies in the six folders, folder by folder.

    Raises:
        CorpusError: a folder or its text is missing, or has not as many lines as the folder has pictures.
    """
    return [case for category in TEXTS for case in _in_folder(root, category)]


def read_case(root: str, case: Case) -> Sample:
    """The sample of one case, with the box of its mask."""
    source, error = NO_IMAGE, ""
    try:
        if not case.instruction or not case.noun or "\ufffd" in case.line:
            raise rows.BadRow(f"found {case.line!r:.60}; write `instruction {MARK} noun` in UTF-8")
        source = rows.read_picture(root, case.picture)
    except rows.BadRow as bad:
        error = f"{case.id}: {bad}"
    return Sample(
        id=case.id,
        corpus=CORPUS,
        task="edit",
        instruction=case.instruction,
        source=source,
        boxes=masks.read_boxes(root, case.mask, masks.bright),
        error=error,
    )


def _in_folder(root: str, category: str) -> list[Case]:
    path = rows.require(root, f"{category}/{TEXTS[category]}", "the instructions of ReasonEdit's benchmark")
    lines = [line.decode("utf-8-sig", errors="replace").strip() for line in storage.read_bytes(path).splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    there = storage.names(storage.join(root, category))
    names = [name.removesuffix(".png") for name in there if name.endswith(".png")]
    if len(names) != len(lines) or not names:
        raise rows.CorpusError(
            f"{path} has {len(lines)} lines for {len(names)} pictures *.png; write one line per picture, in their order"
        )
    return [
        Case(
            id=f"{CORPUS}/test/{category}/{name}",
            category=category,
            picture=f"{category}/{name}.png",
            mask=f"{category}/{name}_mask.jpg",
            line=line,
        )
        for name, line in zip(names, lines, strict=True)
    ]
