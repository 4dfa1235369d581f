"""LLaVA-Instruct-150K: dialogues about COCO pictures, which keep the VLM able to answer questions about a picture.

Source: huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K, `llava_instruct_150k.json`; pictures are COCO train2017.
LLaVA's format has conversations without a picture too, which have no `image`; they are skipped.
"""

import functools
from collections.abc import Iterator
from typing import Any

from fireedit.platform.data.corpora import rows
from fireedit.platform.data.sample import Sample

CORPUS = "llava_instruct"
FILE = "llava_instruct_150k.json"
IMAGES = "train2017"
NO_PICTURE = "conversations without a picture"


def read(root: str, split: str = "train") -> rows.Corpus:
    """Open every conversation of ROOT/llava_instruct_150k.json with its picture in ROOT/train2017/."""
    rows.require_split(CORPUS, split, ["train"])
    path = rows.require(root, FILE, "the conversations of LLaVA-Instruct-150K")
    records = rows.read_json(path)  # 229 MB of text at once
    if not isinstance(records, list) or not records:
        found = "an empty list" if records == [] else f"a {type(records).__name__}"
        raise rows.CorpusError(f"{path}: found {found}; write a list of conversations")
    rows.require(root, IMAGES, "the pictures of COCO train2017")
    items = [
        (f"{CORPUS}/train/{index:06d}", record) for index, record in enumerate(records) if not _is_text_only(record)
    ]
    return rows.in_parts(items, functools.partial(read_dialogue, root), {NO_PICTURE: len(records) - len(items)})


def read_dialogue(root: str, name: str, record: Any) -> Iterator[Sample]:
    """Make one conversation a sample; its id is its place in the file, for up to three share the picture's name."""
    questions, answers = split_turns(rows.field(record, "conversations", list))
    source = rows.read_picture(root, f"{IMAGES}/{rows.inside(rows.field(record, 'image', str))}")
    yield Sample(id=name, corpus=CORPUS, task="vqa", questions=questions, answers=answers, source=source)


def split_turns(turns: list[Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split a dialogue into questions and answers; `<image>` is taken out, for the processor places the picture.

    Raises:
        BadRow: human and gpt do not take turns.
    """
    speakers = [rows.field(turn, "from", str) for turn in turns]
    if not turns or speakers != ["human", "gpt"] * (len(turns) // 2):
        raise rows.BadRow(f"found the speakers {', '.join(speakers) or '(none)'}; write human, gpt in turn")
    texts = [rows.field(turn, "value", str).replace("<image>", "").strip() for turn in turns]
    return tuple(texts[::2]), tuple(texts[1::2])


def _is_text_only(record: Any) -> bool:
    return isinstance(record, dict) and "conversations" in record and "image" not in record
