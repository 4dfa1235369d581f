"""Samples become cards and lines of a table."""

from typing import Any

import numpy as np

from fireedit.jobs.training.samples import COLORS, SET_ASIDE, TABLE_WIDTH, ShownSample, card, sample_table
from fireedit.platform import images
from fireedit.platform.data.sample import Sample

PICTURE = images.encode_png(np.zeros((6, 8, 3), np.uint8))


def shown(**fields: Any) -> ShownSample:
    return ShownSample(Sample(id="x", corpus="c", **fields), 3, "row 3")


def test_a_bad_row_is_marked_as_set_aside() -> None:
    bad = card(shown(task="edit", instruction="add a hat", error="x.jpg: truncated"))
    assert (bad.words, bad.color, bad.panels) == ("SET ASIDE: x.jpg: truncated", SET_ASIDE, [])
    assert bad.color not in COLORS.values()


def test_each_task_has_its_own_card() -> None:
    box = (0.0, 0.0, 0.5, 0.5)
    edit = card(shown(task="edit", instruction="add a hat", source=PICTURE, target=PICTURE, boxes=(box,)))
    assert (edit.title, edit.note, edit.words) == ("edit   c", "row 3", "add a hat")
    assert [panel.boxes for panel in edit.panels] == [(box,), ()], "boxes belong to the source"

    untargeted = card(shown(task="edit", instruction="add a hat", source=PICTURE))
    assert (len(untargeted.panels), untargeted.aside) == (1, "no target")

    answered = card(shown(task="vqa", source=PICTURE, questions=("who?", "why?"), answers=("a cat", "no idea")))
    assert (answered.words, answered.aside) == ("who?", "a cat")

    caption = card(shown(task="caption", instruction="a cat"))
    assert (caption.words, caption.panels) == ("a cat", [])
    assert len({card.color for card in (edit, answered, caption)}) == 3


def test_the_table_is_aligned_and_fits_a_terminal() -> None:
    rows = [
        shown(task="caption", instruction="a cat\nand " * 90),
        shown(task="vqa", questions=("who?",), answers=("I",)),
    ]
    lines = sample_table(rows, [card(row) for row in rows]).splitlines()
    assert len(lines) == 3 and len(lines[1]) == TABLE_WIDTH
    start = lines[0].index("words")
    assert lines[1][start:].startswith("a cat and a cat") and lines[2][start:] == "who? - I"
