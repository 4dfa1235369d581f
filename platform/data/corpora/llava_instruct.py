"""LLaVA-Instruct-150K: dialogues about COCO pictures, which keep the VLM able to answer questions about a picture.

Source: huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K, `llava_instruct_150k.json`; pictures are COCO train2017.
LLaVA's format has conversations without a picture too, which have no `image`; they are skipped.
"""

import dataclasses
import functools
from typing import Any, TypeVar

from fireedit.platform.data.corpora import rows
from fireedit.platform.data.sample import Sample

CORPUS = "llava_instruct"
FILE = "llava_instruct_150k.json"
IMAGES = "train2017"
NO_PICTURE = "conversations without a picture"
T = TypeVar("T")


def read(root: str, split: str = "train") -> rows.Corpus:
    """Open every conversation of ROOT/llava_instruct_150k.json with its picture in ROOT/train2017/."""
    rows.require_split(CORPUS, split, ["train"])
    records = read_records(root)
    rows.require(root, IMAGES, "the pictures of COCO train2017")
    numbered = [(number, record) for number, record in enumerate(records) if not _is_text_only(record)]
    skipped = {NO_PICTURE: len(records) - len(numbered)} if len(numbered) < len(records) else {}
    return rows.in_parts(numbered, functools.partial(read_dialogue, root), skipped)


def read_records(root: str) -> list[Any]:
    """Read the conversations as the file lists them; the 229 MB of text are read at once, the pictures are not."""
    path = rows.require(root, FILE, "the conversations of LLaVA-Instruct-150K")
    records = rows.read_json(path)
    if not isinstance(records, list) or not records:
        found = "an empty list" if records == [] else f"a {type(records).__name__}"
        raise rows.CorpusError(f"{path}: found {found}; write a list of conversations")
    return records


def read_dialogue(root: str, numbered: tuple[int, Any]) -> Sample:
    """Make one conversation a sample; its id is its place in the file, for up to three share the picture's name."""
    index, record = numbered
    sample = Sample(id=f"{CORPUS}/train/{index:06d}", corpus=CORPUS, task="vqa")
    try:
        questions, answers = split_turns(_field(record, "conversations", list))
        source = rows.read_picture(root, f"{IMAGES}/{rows.inside(_field(record, 'image', str))}")
        return dataclasses.replace(sample, questions=questions, answers=answers, source=source)
    except rows.BadRow as bad:
        return dataclasses.replace(sample, error=f"{FILE}, conversation {index}: {bad}")


def split_turns(turns: list[Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split a dialogue into questions and answers; `<image>` is taken out, for the processor places the picture.

    Raises:
        BadRow: human and gpt do not take turns.
    """
    speakers = [_field(turn, "from", str) for turn in turns]
    if not turns or speakers != ["human", "gpt"] * (len(turns) // 2):
        raise rows.BadRow(f"found the speakers {', '.join(speakers) or '(none)'}; write human, gpt in turn")
    texts = [_field(turn, "value", str).replace("<image>", "").strip() for turn in turns]
    return tuple(texts[::2]), tuple(texts[1::2])


def _is_text_only(record: Any) -> bool:
    return isinstance(record, dict) and "conversations" in record and "image" not in record


def _field(record: Any, name: str, kind: type[T]) -> T:
    """Return a field of a JSON object, which must be there and of this type."""
    value = record.get(name) if isinstance(record, dict) else record
    if not isinstance(record, dict) or not isinstance(value, kind):
        raise rows.BadRow(f"found {value!r:.40}; write an object whose {name!r} is a {kind.__name__}")
    return value
