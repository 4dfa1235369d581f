"""Held-out scenes drawn by this project, whose truth is known: single edits by split and family, and sessions.

Pictures are drawn into a folder before they are edited. Each edit has noise of its own seed. The scene reader judges
every output, see scene_measuring.py; tables are called SPLIT/FAMILY, those of sessions SPLIT/session_TURN,
and SPLIT is that of all its families.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fireedit.jobs.evaluation.cases import FAMILIES, SPLITS, Cases, EditCase, families_of
from fireedit.jobs.evaluation.judges import MEASURES
from fireedit.jobs.evaluation.sets.evaluation_set import Comparison, EvaluationSet, SetError, Turn
from fireedit.platform import images, storage

SIDE = 64
"""Side of the pictures, pixels: what nano paints."""
SESSION = "session_"
"""Beginning of the tables of turns of sessions."""
READER = "reader"
"""Measure: success of the true target, the scene reader's own accuracy."""
COLUMNS = (*MEASURES, READER)


@dataclass(frozen=True, kw_only=True)
class SceneChoice:
    """Edits that are drawn."""

    splits: Sequence[str] = ("unseen_seeds",)
    families: Sequence[str] = FAMILIES
    edits: int = 200
    """Edits of each family."""
    sessions: int = 50
    """Sessions of each split."""

    def __post_init__(self) -> None:
        for option, names, known in (("splits", self.splits, SPLITS), ("families", self.families, FAMILIES)):
            if wrong := [name for name in names if name not in known]:
                raise SetError(f"--{option}: found {wrong[0]!r}; write some of {', '.join(known)}")


def open_set(drawn: str, choice: SceneChoice) -> EvaluationSet:
    """Draw the edits' sources and targets into the folder `drawn`, those that are missing.

    Raises:
        SetError: no edit is asked for.
    """
    cases, chains = Cases(SIDE), list[list[EditCase]]()
    for split in choice.splits:
        families = [family for family in choice.families if family in families_of(split)]
        chains += [[case] for family in families for case in cases.of(split, family, choice.edits)]
        chains += cases.sessions(split, choice.sessions)
    if not chains:
        raise SetError(f"--splits {','.join(choice.splits)} --families {','.join(choice.families)}: found no edits")
    digest = hashlib.blake2b(digest_size=8)
    for case in (case for chain in chains for case in chain):
        digest.update(f"{case.instruction} {case.seed} {case.boxes}".encode())
        digest.update(case.source.tobytes() + case.target.tobytes())
        for name, picture in (("source", case.source), ("target", case.target)):
            _save(picture, _address(drawn, case, name))
    return EvaluationSet(
        name="scenes",
        fingerprint=digest.hexdigest(),
        turns=[turn for chain in chains for turn in _turns(drawn, chain)],
        comparisons=[_comparison(drawn, chain, place) for chain in chains for place in range(len(chain))],
        columns=COLUMNS,
        totals={
            split: [f"{split}/{family}" for family in choice.families if family in families_of(split)]
            for split in choice.splits
        },
    )


def case_key(case: EditCase) -> str:
    """Write what draws a case again."""
    return f"{case.split}/{case.family}/{case.seed}"


def draw_again(key: str) -> tuple[list[EditCase], int]:
    """Draw the edits of a case's session again, or the case alone; also returns its place among them."""
    split, family, seed = key.split("/")
    if not family.startswith(SESSION):
        return [Cases(SIDE).case(split, family, int(seed))], 0
    return Cases(SIDE).session(split, int(seed)), int(family.removeprefix(SESSION)) - 1


def _save(picture: np.ndarray, address: str) -> None:
    if not storage.exists(address):
        storage.write_bytes(address, images.encode_png(picture))


def _address(drawn: str, case: EditCase, name: str) -> str:
    return storage.join(drawn, case.split, case.family, f"{case.seed}-{name}.png")


def _turns(drawn: str, chain: Sequence[EditCase]) -> Iterator[Turn]:
    before = ""
    for case in chain:
        output = f"{case_key(case)}.png"
        yield Turn(
            output=output,
            instruction=case.instruction,
            source=before or _address(drawn, case, "source"),
            chained=bool(before),
            target=_address(drawn, case, "target"),
            seed=case.seed,
            boxes=case.boxes,
        )
        before = output


def _comparison(drawn: str, chain: Sequence[EditCase], place: int) -> Comparison:
    case = chain[place]
    return Comparison(
        table=f"{case.split}/{case.family}",
        unit=f"{case.split}/{SESSION}/{case.seed}" if len(chain) > 1 else case_key(case),
        output=f"{case_key(case)}.png",
        reference=_address(drawn, case, "target"),
        source=_address(drawn, chain[0], "source"),
        case=case_key(case),
    )
