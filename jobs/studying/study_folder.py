"""Folder of a preference study: study.json, which only the server reads, and pictures under names that tell nothing."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

STUDY, PICTURES, VOTES = "study.json", "pictures", "votes.db"
"""Files and the folder of pictures in the folder of a study."""


class StudyError(ValueError):
    """Study that cannot be made, served or reported; the message says what was found and what to write."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """Edit that participants choose the best picture of."""

    token: str
    """Name of the question in the browser."""
    output: str
    """File of the edit in the folders of evaluations."""
    instruction: str
    size: tuple[int, int]
    """Width and height of all its pictures, pixels."""
    source: str
    """Token of the picture before the edit."""
    pictures: tuple[str, ...]
    """Tokens of the edited pictures, in the order of the study's methods."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """Questions of a study, with the names of the methods."""

    token: str
    """Identity, which a database of votes keeps too."""
    set: str
    fingerprint: str
    """Hash of the set, as evaluations write it."""
    seed: int
    """Seed by which the questions were drawn."""
    order_key: str
    """Secret from which the order of questions and pictures follows for every participant."""
    aspects: tuple[str, ...]
    """Sentences that tell participants what to judge by."""
    methods: tuple[str, ...]
    weights: tuple[str, ...]
    """Hash of each method's weights, empty where there are none."""
    questions: tuple[Question, ...]


def read_study(folder: Path) -> Study:
    """Read study.json.

    Raises:
        StudyError: there is none, or it is not what `study.py make` writes.
    """
    path = folder / STUDY
    if not path.is_file():
        raise StudyError(f"{path}: no such file; write the folder that `study.py make --out` made")
    try:
        study = TypeAdapter(Study).validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise StudyError(f"{path}: {place}: {first['msg']}; make the study again") from None
    for question in study.questions:
        if len(question.pictures) != len(study.methods):
            found = f"{len(question.pictures)} pictures of {len(study.methods)} methods"
            raise StudyError(f"{path}: question {question.token}: found {found}; make the study again")
    return study


def write_study(study: Study, folder: Path) -> None:
    (folder / STUDY).write_bytes(TypeAdapter(Study).dump_json(study, indent=1))


def picture_path(folder: Path, token: str) -> Path:
    return folder / PICTURES / f"{token}.png"
