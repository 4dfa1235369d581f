"""The row contract: what every corpus reader yields and what every processor takes."""

import dataclasses
from typing import Any, Literal

Task = Literal["caption", "edit", "vqa"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """One training sample of any corpus, images still encoded.

    A caption has an instruction only, an edit has source, target and instruction, a vqa sample has a source and a
    dialogue.
    """

    id: str
    """Stable across runs and machines, unique in all corpora: `cocostuff/train2017/000000001000-0`."""
    corpus: str
    task: Task
    instruction: str = ""
    """What the person wrote; for a caption, the caption."""
    plain: str = ""
    """The same request in plain words that name its object; empty where the instruction does or no one knows them."""
    questions: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    """As many as questions: the dialogue of a vqa sample, turn by turn."""
    source: bytes = b""
    """JPEG, PNG or WebP; empty for a caption."""
    target: bytes = b""
    """JPEG, PNG or WebP; empty unless the task is edit."""
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    """What the instruction is about, as far as the corpus tells: xyxy in [0, 1] of the source's sides."""
    error: str = ""
    """Why this row cannot be trained on; it is then counted and set aside instead of drawn."""

    def row(self) -> dict[str, Any]:
        """The sample as plain values by field, as a shard holds it."""
        row = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return row | {"questions": list(self.questions), "answers": list(self.answers)}
