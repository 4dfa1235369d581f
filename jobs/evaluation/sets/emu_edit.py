"""Emu Edit's test set, which has no targets: outputs are compared with their sources, CLIP-T with the output caption.

The two published sets name their splits the other way round: 3,589 edits lie under `validation` of
`emu_edit_test_set_generations`, which published figures are measured on, and 2,022 under its `test`. Rows are known by
(idx, hash). Wrong captions of the published set stay; a second table leaves out the rows whose captions are equal.

Source: Emu Edit (arXiv 2311.10089); github.com/HaozheZhao/UltraEdit, issues 18 and 25, for the protocol.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from typing import Literal

from fireedit.jobs.evaluation.sets.evaluation_set import Comparison, EvaluationSet, SetError, Turn
from fireedit.platform import storage
from fireedit.platform.data.corpora.emu_edit import PREFIXES, EmuEdit, find_parts, read_edits

SPLITS = {"3589": ("validation-",), "2022": ("test-",), "all": PREFIXES}
"""Files of each part in `emu_edit_test_set_generations`, by the beginnings of their names."""
SIZES = {"3589": 3589, "2022": 2022}
"""Edits of the published parts; a key that stands in both counts once in all."""
ALL, UNLIKE, GENERATIONS = "all edits", "captions differ", "against Emu Edit's pictures"
COLUMNS = ("l1", "clip_i", "dino", "lpips", "clip_t", "clip_dir")

Part = Literal["3589", "2022", "all"]


def open_set(root: str, unpacked: str, part: Part = "3589", against: str = "", partial: bool = False) -> EvaluationSet:
    """Open ROOT/data/*.parquet, and write their pictures into `unpacked`, once.

    Args:
        against: `generations` compares with Emu Edit's own pictures too, in a table of its own.
        partial: leave out rows that cannot be read, and take another number of rows.
    Raises:
        SetError: rows cannot be read, or their number is another.
        CorpusError: there are no such files.
    """
    edits = list(_edits(root, part))
    bad = [edit.sample.error for edit in edits if edit.sample.error]
    good = [edit for edit in edits if not edit.sample.error]
    wanted = SIZES.get(part, len(good))
    if (bad or len(good) != wanted) and not partial:
        first = f", and {len(bad)} that cannot be read, first {bad[0]}" if bad else ""
        raise SetError(f"{root}: found {len(good)} edits of {wanted}{first}; write --partial to evaluate what is there")
    if against and not all(edit.sample.target for edit in good):
        raise SetError(f"--against {against}: {root} has no edited_image; give emu_edit_test_set_generations")
    for edit in good:
        for name, data in (("source", edit.sample.source), ("generation", edit.sample.target if against else None)):
            if data and not storage.exists(address := _address(unpacked, edit, name)):
                storage.write_bytes(address, data)
    digest = hashlib.blake2b(digest_size=8)
    for edit in good:
        digest.update(f"{edit.sample.id} {edit.sample.instruction}".encode() + edit.sample.source)
    return EvaluationSet(
        name=f"emu-edit-{part}",
        fingerprint=digest.hexdigest(),
        turns=[_turn(unpacked, edit) for edit in good],
        comparisons=[each for edit in good for each in _comparisons(unpacked, edit, against)],
        columns=COLUMNS,
        partial=bool(bad) or len(good) != wanted,
    )


def _edits(root: str, part: Part) -> Iterator[EmuEdit]:
    for file in find_parts(root, Counter(), SPLITS[part]):
        for number, edit in enumerate(read_edits(file)):
            if part != "all" or number not in file.repeated:
                yield edit


def _key(edit: EmuEdit) -> str:
    return edit.sample.id.rpartition("/")[2]


def _address(unpacked: str, edit: EmuEdit, name: str) -> str:
    return storage.join(unpacked, name, _key(edit))


def _turn(unpacked: str, edit: EmuEdit) -> Turn:
    source = _address(unpacked, edit, "source")
    return Turn(output=f"{_key(edit)}.png", instruction=edit.sample.instruction, source=source)


def _comparisons(unpacked: str, edit: EmuEdit, against: str) -> Iterator[Comparison]:
    tables = [ALL] if edit.input_caption == edit.output_caption else [ALL, UNLIKE]
    for table in [*tables, *([GENERATIONS] if against else [])]:
        source = _address(unpacked, edit, "source")
        yield Comparison(
            table=table,
            unit=_key(edit),
            output=f"{_key(edit)}.png",
            reference=_address(unpacked, edit, "generation") if table == GENERATIONS else source,
            source=source,
            caption=edit.output_caption,
            source_caption=edit.input_caption,
        )
