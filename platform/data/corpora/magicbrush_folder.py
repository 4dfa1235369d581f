"""MagicBrush's dev and test sets as folders: single pictures, and JSON files of sessions and descriptions.

The test set is published in this form only (a zip with a password, so that no crawler feeds it to a model): leave it
out of what you train on and publish.
Source: github.com/OSU-NLP-Group/MagicBrush, edit_cli_single_multi_turn.py and evaluation/image_eval.py.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

from fireedit.platform import storage
from fireedit.platform.data.corpora import keyed_json, masks, rows
from fireedit.platform.data.sample import NO_IMAGE, Sample

CORPUS = "magicbrush"
SESSIONS = "edit_sessions.json"
GLOBAL, LOCAL = "global_descriptions.json", "local_descriptions.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Turn:
    """One edit of a session and the words that tell its result, before any picture is read."""

    id: str
    instruction: str = ""
    source: str = ""
    """Of a later turn, the target of the one before."""
    mask: str = ""
    target: str = ""
    """Files, relative to the corpus's folder."""
    global_caption: str = ""
    """What the whole target shows, for CLIP-T; empty where the descriptions lack it."""
    local_caption: str = ""
    """What its edited part shows; MagicBrush's own example measures CLIP-T with these."""
    error: str = ""


def read(root: str, split: str) -> rows.Corpus:
    """Every turn of the sessions of ROOT/SPLIT."""
    return rows.in_parts(find_turns(root, split), functools.partial(read_turn, root))


def find_turns(root: str, split: str) -> list[Turn]:
    """The turns of ROOT/SPLIT/edit_sessions.json, session by session; one that is no turn has `error`.

    Raises:
        CorpusError: there is no such file, or it holds no sessions.
    """
    path = rows.require(root, f"{split}/{SESSIONS}", f"MagicBrush's {split} set, unpacked as the folder {split}")
    sessions = keyed_json.read_object(path, "an object of sessions, lists of turns, keyed by picture")
    captions = [_descriptions(storage.join(root, split, name)) for name in (GLOBAL, LOCAL)]
    return [turn for key, session in sessions.items() for turn in _turns(split, key, session, *captions)]


def read_turn(root: str, turn: Turn) -> Sample:
    """The sample of one turn, with the box of its mask; source and target may differ in size."""
    source, target, error = NO_IMAGE, NO_IMAGE, ""
    try:
        if turn.error:
            raise rows.BadRow(turn.error)
        source, target = rows.read_picture(root, turn.source), rows.read_picture(root, turn.target)
    except rows.BadRow as bad:
        source, target, error = NO_IMAGE, NO_IMAGE, f"{turn.id}: {bad}"
    return Sample(
        id=turn.id,
        corpus=CORPUS,
        task="edit",
        instruction=turn.instruction,
        source=source,
        target=target,
        boxes=masks.read_boxes(root, turn.mask, functools.partial(masks.erased, source=source)),
        error=error,
    )


def _descriptions(path: str) -> dict[str, Any]:
    """Captions by picture and file name; who only trains needs none, so the file may be missing."""
    return keyed_json.read_object(path, "an object of captions by picture and file") if storage.exists(path) else {}


def _turns(split: str, key: str, session: Any, whole: dict[str, Any], local: dict[str, Any]) -> Iterator[Turn]:
    if not isinstance(session, list):
        yield Turn(id=f"{CORPUS}/{split}/{key}", error=f"found a {type(session).__name__}; write a list of turns")
        return
    for number, found in enumerate(session, start=1):
        name = f"{CORPUS}/{split}/{key}-{number}"
        try:
            output = _text(found, "output")
            yield Turn(
                id=name,
                instruction=_text(found, "instruction"),
                source=rows.inside(f"{split}/images/{key}/{_text(found, 'input')}"),
                mask=rows.inside(f"{split}/images/{key}/{found['mask']}") if found.get("mask") else "",
                target=rows.inside(f"{split}/images/{key}/{output}"),
                global_caption=_caption(whole, key, output),
                local_caption=_caption(local, key, output),
            )
        except rows.BadRow as bad:
            yield Turn(id=name, error=str(bad))


def _text(found: Any, member: str) -> str:
    text = found.get(member) if isinstance(found, dict) else None
    if isinstance(text, str) and text.strip():
        return text.strip()
    raise rows.BadRow(f"found {found!r:.60}; write an object of texts 'input', 'mask', 'output' and 'instruction'")


def _caption(captions: dict[str, Any], key: str, output: str) -> str:
    found = captions.get(key)
    text = found.get(output) if isinstance(found, dict) else None
    return text if isinstance(text, str) else ""
