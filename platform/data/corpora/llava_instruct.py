"""LLaVA-Instruct-150K: dialogues about COCO pictures, which keep the VLM able to talk about what it sees.

Source: huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K, `llava_instruct_150k.json`; pictures are COCO train2017.
"""

import functools
from typing import Any, TypeVar

from fireedit.platform.data.corpora import rows
from fireedit.platform.data.sample import NO_IMAGE, Sample

CORPUS = "llava_instruct"
FILE = "llava_instruct_150k.json"
IMAGES = "train2017"
T = TypeVar("T")


def read(root: str, split: str = "train") -> rows.Corpus:
    """Every conversation of ROOT/llava_instruct_150k.json with its picture in ROOT/train2017/."""
    rows.require_split(CORPUS, split, ["train"])
    records = read_records(root)
    rows.require(root, IMAGES, "the pictures of COCO train2017")
    return rows.in_parts(list(enumerate(records)), functools.partial(read_dialogue, root))


def read_records(root: str) -> list[Any]:
    """The conversations as the file lists them; the 229 MB of text are read at once, the pictures are not."""
    path = rows.require(root, FILE, "the conversations of LLaVA-Instruct-150K")
    records = rows.read_json(path)
    if not isinstance(records, list) or not records:
        found = "an empty list" if records == [] else f"a {type(records).__name__}"
        raise rows.CorpusError(f"{path}: found {found}; write a list of conversations")
    return records


def read_dialogue(root: str, numbered: tuple[int, Any]) -> Sample:
    """One sample of one conversation; the id is its place in the file, for up to three share the picture's name."""
    index, record = numbered
    questions: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    source, error = NO_IMAGE, ""
    try:
        questions, answers = split_turns(_field(record, "conversations", list))
        source = rows.read_picture(root, f"{IMAGES}/{rows.inside(_field(record, 'image', str))}")
    except rows.BadRow as bad:
        error = f"{FILE}, conversation {index}: {bad}"
    name = f"{CORPUS}/train/{index:06d}"
    return Sample(id=name, corpus=CORPUS, task="vqa", questions=questions, answers=answers, source=source, error=error)


def split_turns(turns: list[Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Questions and answers, turn by turn; the processor decides where the picture goes, so `<image>` is taken out.

    Raises:
        BadRow: human and gpt do not take turns.
    """
    speakers = [_field(turn, "from", str) for turn in turns]
    if not turns or speakers != ["human", "gpt"] * (len(turns) // 2):
        raise rows.BadRow(f"found the speakers {', '.join(speakers) or 'nobody'}; write human, gpt in turn")
    texts = [_field(turn, "value", str).replace("<image>", "").strip() for turn in turns]
    return tuple(texts[::2]), tuple(texts[1::2])


def _field(record: Any, name: str, kind: type[T]) -> T:
    """A field of a JSON object, which must be there and of this type."""
    found = record.get(name) if isinstance(record, dict) else record
    if not isinstance(record, dict) or not isinstance(found, kind):
        raise rows.BadRow(f"found {found!r:.40}; write an object whose {name!r} is a {kind.__name__}")
    return found
