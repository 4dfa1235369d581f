"""Row contract of every corpus: what readers yield, shards store and the processor takes."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, Self

from fireedit.platform.images import EncodedImage

Task = Literal["caption", "edit", "vqa"]
NO_IMAGE = EncodedImage(b"")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """Training sample of any corpus, images still encoded.

    A caption has an instruction only, an edit has source, target and instruction, a vqa sample has a source and a
    dialogue. Shards have a column for each field but `error` and `read_from`.
    """

    id: str
    """Stable across runs and machines, unique in all corpora: `cocostuff/train2017/000000001000-0`."""
    corpus: str
    task: Task
    instruction: str = ""
    """Request for an edit as the corpus words it; for a caption, the caption."""
    plain: str = ""
    """The same request in plain words that name its object; empty where the instruction does or none is known."""
    questions: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    """Answer to each question: the dialogue of a vqa sample, turn by turn."""
    source: EncodedImage = NO_IMAGE
    """Image before the edit, or of the dialogue; empty for a caption."""
    target: EncodedImage = NO_IMAGE
    """Image after the edit; empty unless the task is edit."""
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    """Regions that the instruction is about, where the corpus has them: xyxy in [0, 1] of the source's sides."""
    error: str = dataclasses.field(default="", metadata={"stored": False})
    """Reason why this row cannot be trained on; it is then counted and set aside."""
    read_from: tuple[str, int] = dataclasses.field(default=("", 0), compare=False, metadata={"stored": False})
    """File, and line or row in it from 1, where the reader tells them."""

    def row(self) -> dict[str, Any]:
        """Build the sample's row in a shard, by column."""
        return {name: getattr(self, name) for name in STORED_FIELDS}

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Self:
        """Build the sample back from a shard's row; columns that older shards lack keep their defaults."""
        values = {name: row[name] for name in STORED_FIELDS if name in row}
        texts = {name: tuple(values[name]) for name in ("questions", "answers")}
        return cls(**values | texts | {"boxes": tuple(tuple(box) for box in values["boxes"])})


STORED_FIELDS = tuple(field.name for field in dataclasses.fields(Sample) if field.metadata.get("stored", True))
