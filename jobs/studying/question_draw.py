"""Questions of a study, drawn from evaluations of several editors on one set."""

import json
import random
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fireedit.jobs.evaluation.tables import RESULT
from fireedit.jobs.evaluation.turns import TURNS, PaintedTurn, read_turns
from fireedit.jobs.studying.study_folder import PICTURES, STUDY, Question, Study, StudyError, picture_path, write_study
from fireedit.platform import images, storage

ASPECTS = (
    "It does what the instruction asks for, completely.",
    "It leaves everything else as it was.",
    "It looks good: sharp, natural, without artifacts.",
)
"""Aspects of section 4 of the paper's supplement: fidelity, preservation, quality."""
LONGEST_SIDE = 1024
"""Longest side of a picture that participants see, pixels."""
_NAMED = re.compile(r"([\w.-]+)=(.+)")


@dataclass(frozen=True)
class Method:
    """Evaluation of an editor that takes part."""

    name: str
    weights: str
    result: Mapping[str, Any]
    """Content of evaluation.json."""
    turns: Mapping[str, PaintedTurn]
    """Edits by output."""


def make_study(
    out: str, evaluations: Sequence[str], questions: int = 30, seed: int = 0, aspects: Sequence[str] = ASPECTS
) -> Study:
    """Draw questions and write the folder of a study; the same evaluations and seed give the same questions.

    Args:
        evaluations: folders that `evaluate.py --out` wrote, or NAME=FOLDER with the method's name in the report.
    Raises:
        StudyError: evaluations do not fit together, or a picture cannot be read.
    """
    target = _free_folder(out)
    methods = [_read_method(word) for word in evaluations]
    _require_comparable(methods)
    drawn = _draw(methods, questions, seed)
    with storage.writing_folder(str(target), STUDY) as folder:
        (folder / PICTURES).mkdir()
        first = methods[0]
        study = Study(
            token=secrets.token_hex(16),
            set=first.result["set"],
            fingerprint=first.result["fingerprint"],
            seed=seed,
            order_key=secrets.token_hex(16),
            aspects=tuple(aspects),
            methods=tuple(method.name for method in methods),
            weights=tuple(method.weights for method in methods),
            questions=tuple(_write_question([method.turns[output] for method in methods], folder) for output in drawn),
        )
        write_study(study, folder)
    return study


def _free_folder(out: str) -> Path:
    if storage.is_remote(out):
        raise StudyError(f"--out {out}: found an address; write a folder of this machine, which the server reads")
    target = Path(storage.absolute(out))
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise StudyError(f"--out {out}: found files there, which may be votes; write a new folder")
    return target


def _read_method(word: str) -> Method:
    named = _NAMED.fullmatch(word)
    name, folder = named.groups() if named else ("", word)
    folder = storage.absolute(folder)
    try:
        result = json.loads(storage.read_bytes(storage.join(folder, RESULT)))
        found = {key: result[key] for key in ("editor", "weights", "set", "fingerprint")}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise StudyError(f"{word}: {RESULT} cannot be used ({error}); write a folder of evaluate.py --out") from None
    if not storage.exists(storage.join(folder, TURNS)):
        again = "give the same evaluate.py command again, which paints nothing twice"
        raise StudyError(f"{word}: found no {TURNS}, as an earlier evaluate.py left it; {again}")
    if found["editor"] == "vae":
        raise StudyError(f"{word}: found the bound `vae`, which paints from targets, not from sources; leave it out")
    try:
        turns = {turn.output: turn for turn in read_turns(folder)}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise StudyError(f"{word}: {TURNS} cannot be read: {error}; give the evaluate.py command again") from None
    return Method(name or str(found["editor"]), str(found["weights"]), found, turns)


def _require_comparable(methods: Sequence[Method]) -> None:
    if len(methods) < 2:
        raise StudyError(f"--evaluations: found {len(methods)}; write at least two, one of each method")
    names = [method.name for method in methods]
    if twice := [name for name in names if names.count(name) > 1]:
        raise StudyError(f"--evaluations: found {twice[0]} twice; write NAME=FOLDER to tell the methods apart")
    first = methods[0]
    for method in methods[1:]:
        for key in ("set", "fingerprint"):
            if method.result[key] != first.result[key]:
                found = f"{first.name} has {key} {first.result[key]}, {method.name} has {method.result[key]}"
                raise StudyError(f"--evaluations: {found}; write evaluations of the same edits")


def _draw(methods: Sequence[Method], count: int, seed: int) -> list[str]:
    """Draw outputs that all methods have."""
    shared = sorted(set.intersection(*(set(method.turns) for method in methods)))
    for output in shared:
        if len({method.turns[output].instruction for method in methods}) > 1:
            raise StudyError(f"{output}: the evaluations have different instructions; evaluate the same set")
    if not 1 <= count <= len(shared):
        raise StudyError(f"--questions {count}: found {len(shared)} edits that all methods have; write 1 to that many")
    return random.Random(seed).sample(shared, count)


def _write_question(turns: Sequence[PaintedTurn], folder: Path) -> Question:
    source = _decoded(turns[0].source)
    height, width = source.shape[:2]
    scale = min(1.0, LONGEST_SIDE / max(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    tokens = [_write_picture(images.resize(source, *size), folder)]
    tokens += [_write_picture(images.resize(_decoded(turn.picture), *size), folder) for turn in turns]
    return Question(
        token=secrets.token_hex(8),
        output=turns[0].output,
        instruction=turns[0].instruction,
        size=size,
        source=tokens[0],
        pictures=tuple(tokens[1:]),
    )


def _decoded(address: str) -> np.ndarray:
    try:
        return images.decode(storage.read_bytes(address))
    except (OSError, images.ImageError) as error:
        raise StudyError(f"{address}: {error}; evaluate the set again, or put the picture back") from None


def _write_picture(pixels: np.ndarray, folder: Path) -> str:
    """Write a picture anew, pixels only; returns its random name."""
    token = secrets.token_hex(16)
    picture_path(folder, token).write_bytes(images.encode_png(pixels))
    return token
