"""MagicBrush: manual edits in sessions of several turns, from its parquet files or its dev and test folders.

Each turn is a sample; the source of a later turn is the target of the one before. Its box is that of the mask: the part
that is transparent or, where nothing is, pure white and not so in the source. The test set is published as a folder
only, in a zip with a password, so that no crawler feeds it to a model: leave it out of what you train on and publish.
Source: huggingface.co/datasets/osunlp/MagicBrush, `data/train-000NN-of-00031-*.parquet` and `data/dev-*`;
github.com/OSU-NLP-Group/MagicBrush, edit_cli_single_multi_turn.py and evaluation/image_eval.py.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

from fireedit.platform import storage
from fireedit.platform.data.corpora import masks, parquet, rows
from fireedit.platform.data.sample import Sample

CORPUS = "magicbrush"
COLUMNS = {"source": "source_img", "instruction": "instruction", "target": "target_img", "mask": "mask_img"}
KEY = ["img_id", "turn_index"]
SESSIONS = "edit_sessions.json"
GLOBAL, LOCAL = "global_descriptions.json", "local_descriptions.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MagicBrushTurn:
    """Edit of a session in a folder, before any picture is read."""

    instruction: str
    source: str
    """Target of the turn before, in a later turn."""
    mask: str
    target: str
    """Files, relative to the corpus's folder."""
    global_caption: str
    """Caption of the whole target, for CLIP-T; empty where the descriptions lack it."""
    local_caption: str
    """Caption of the edited part; MagicBrush's own example measures CLIP-T with these."""


def read(root: str, split: str = "train") -> rows.Corpus:
    """Open every turn of ROOT/data/SPLIT-*.parquet; of the folder ROOT/SPLIT for test, and for dev if it is there."""
    rows.require_split(CORPUS, split, ["train", "dev", "test"])
    if split == "test" or (split == "dev" and storage.exists(storage.join(root, split))):
        return rows.in_parts(find_turns(root, split), functools.partial(read_folder_turn, root))
    return parquet.open_pairs(root, (f"{split}-",), parquet.PairReader(f"{CORPUS}/{split}", COLUMNS, KEY, erased=True))


def find_turns(root: str, split: str) -> list[rows.Item]:
    """List the turns of ROOT/SPLIT/edit_sessions.json by id, session by session; one that is no turn is a BadRow.

    Raises:
        CorpusError: there is no such file, or it holds no sessions.
    """
    path = rows.require(root, f"{split}/{SESSIONS}", f"MagicBrush's {split} set, unpacked as the folder {split}")
    sessions = rows.read_object(path, "an object of sessions, lists of turns, keyed by picture")
    captions = [_descriptions(root, f"{split}/{name}") for name in (GLOBAL, LOCAL)]
    return [turn for key, session in sessions.items() for turn in _turns(split, key, session, *captions)]


def read_folder_turn(root: str, name: str, turn: MagicBrushTurn) -> Iterator[Sample]:
    """Make one turn a sample, with the box of its mask; source and target may differ in size."""
    source, target = rows.read_picture(root, turn.source), rows.read_picture(root, turn.target)
    boxes = masks.read_boxes(root, turn.mask, functools.partial(masks.erased, source=source))
    text = turn.instruction
    yield Sample(id=name, corpus=CORPUS, task="edit", instruction=text, source=source, target=target, boxes=boxes)


def _descriptions(root: str, name: str) -> dict[str, Any]:
    """Read captions by picture and file name; training needs none, so the file may be missing."""
    path = storage.join(root, name)
    return rows.read_object(path, "an object of captions by picture and file") if storage.exists(path) else {}


def _turns(split: str, key: str, session: Any, whole: dict[str, Any], local: dict[str, Any]) -> Iterator[rows.Item]:
    if not isinstance(session, list):
        yield f"{CORPUS}/{split}/{key}", rows.BadRow(f"found a {type(session).__name__}; write a list of turns")
        return
    for number, record in enumerate(session, start=1):
        name = f"{CORPUS}/{split}/{key}-{number}"
        try:
            output = _text(record, "output")
            turn = MagicBrushTurn(
                instruction=_text(record, "instruction"),
                source=rows.inside(f"{split}/images/{key}/{_text(record, 'input')}"),
                mask=rows.inside(f"{split}/images/{key}/{record['mask']}") if record.get("mask") else "",
                target=rows.inside(f"{split}/images/{key}/{output}"),
                global_caption=_caption(whole, key, output),
                local_caption=_caption(local, key, output),
            )
            yield name, turn
        except rows.BadRow as bad:
            yield name, bad


def _text(record: Any, member: str) -> str:
    text = record.get(member) if isinstance(record, dict) else None
    if isinstance(text, str) and text.strip():
        return text.strip()
    raise rows.BadRow(f"found {record!r:.60}; write an object of texts 'input', 'mask', 'output' and 'instruction'")


def _caption(captions: dict[str, Any], key: str, output: str) -> str:
    by_file = captions.get(key)
    text = by_file.get(output) if isinstance(by_file, dict) else None
    return text if isinstance(text, str) else ""
