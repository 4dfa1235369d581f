"""Emu Edit's test set: edits of seven tasks with the captions of both pictures, and no target; never trained on.

The set with Emu Edit's own results has them as `edited_image`, which is then the target. An edit is known by (idx,
hash) and never by its split: one set's `validation` is the other's `test`, so both are read. To repeat published
figures, fetch only the files that they were measured on.
Source: huggingface.co/datasets/facebook/emu_edit_test_set and emu_edit_test_set_generations.
"""

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from fireedit.platform.data.corpora import parquet, rows
from fireedit.platform.data.sample import NO_IMAGE, Sample

CORPUS = "emu_edit"
TASKS = ("background", "global", "style", "remove", "add", "local", "texture")
"""Documented tasks; the files hold rows of a task `text` too."""
PREFIXES = ("validation-", "test-")
KEY = ["idx", "hash"]
COLUMNS = [*KEY, "image", "instruction", "task", "input_caption", "output_caption"]
PICTURES = ["image"]
RESULT = "edited_image"


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmuEdit:
    """Edit with the texts that its metrics need beside the pictures."""

    sample: Sample
    task: str
    """Task of the edit, mostly one of `TASKS`."""
    input_caption: str
    """Caption of the source; some of the published set are wrong or empty."""
    output_caption: str
    """Caption that the edited picture should fit."""


@dataclasses.dataclass(frozen=True)
class EmuEditFile:
    """Parquet file of the set."""

    path: str
    repeated: frozenset[int]
    """Numbers of the rows whose (idx, hash) came before, here or in an earlier file."""


def read(root: str, split: str = "test") -> rows.Corpus:
    """Open every edit of ROOT/data/{validation,test}-*.parquet."""
    rows.require_split(CORPUS, split, ["test"])
    skipped: Counter[str] = Counter()
    return rows.Corpus(find_parts(root, skipped), _samples, skipped=skipped)


def find_parts(root: str, skipped: Counter[str], prefixes: Sequence[str] = PREFIXES) -> list[EmuEditFile]:
    """List the files of ROOT/data, of which only the keys are read yet; `skipped` counts those that are no data.

    Args:
        prefixes: beginnings of the names of the files; a key that stands twice is one that does so in these.
    Raises:
        CorpusError: there are no such files, or the first of them has not the columns.
    """
    seen: set[tuple[Any, ...]] = set()
    paths = parquet.list_files(root, CORPUS, tuple(prefixes), skipped)
    parquet.column_names(paths[0], COLUMNS, PICTURES)
    return [EmuEditFile(path, _repeated(path, seen)) for path in paths]


def read_edits(part: EmuEditFile) -> Iterator[EmuEdit]:
    """Read a file's edits with their captions; a bad row is one whose sample has `error`."""
    file = parquet.file_name(part.path)
    try:
        for number, record in enumerate(parquet.read_file(part.path, COLUMNS, PICTURES, [RESULT])):
            yield EmuEdit(
                sample=_sample(record, f"{file}-{number}", number in part.repeated),
                task=parquet.text_of(record, "task"),
                input_caption=parquet.text_of(record, "input_caption"),
                output_caption=parquet.text_of(record, "output_caption"),
            )
    except rows.BadRow as bad:
        yield EmuEdit(sample=parquet.bad_file(CORPUS, part.path, bad), task="", input_caption="", output_caption="")


def _samples(part: EmuEditFile) -> Iterator[Sample]:
    return (edit.sample for edit in read_edits(part))


def _repeated(path: str, seen: set[tuple[Any, ...]]) -> frozenset[int]:
    """Number the rows whose key is in `seen` and add the other keys to it; a file that cannot be read has none."""
    repeated: set[int] = set()
    with contextlib.suppress(rows.BadRow):
        for number, record in enumerate(parquet.read_file(path, KEY, [])):
            key = tuple(record[column] for column in KEY)
            if key in seen:
                repeated.add(number)
            seen.add(key)
    return frozenset(repeated)


def _sample(record: dict[str, Any], place: str, repeated: bool) -> Sample:
    """Make one record a sample; `place`, the file and the row's number, names a row that has no key of its own."""
    number, digest = record["idx"], parquet.text_of(record, "hash")
    has_key = isinstance(number, int) and digest and not repeated
    name = f"{CORPUS}/{number}-{digest}" if has_key else f"{CORPUS}/{place}"
    sample = Sample(id=name, corpus=CORPUS, task="edit", instruction=parquet.text_of(record, "instruction"))
    try:
        if not has_key:
            fault = "stands twice" if repeated and digest else "is no key"
            raise rows.BadRow(f"idx {number} with hash {digest!r:.40} {fault}")
        if not sample.instruction:
            raise rows.BadRow("instruction: found no text")
        source = rows.check_picture(parquet.picture_bytes(record, "image"), "image")
        has_result = RESULT in record
        target = rows.check_picture(parquet.picture_bytes(record, RESULT), RESULT) if has_result else NO_IMAGE
        return dataclasses.replace(sample, source=source, target=target)
    except rows.BadRow as bad:
        return dataclasses.replace(sample, error=f"{name}: {bad}")
