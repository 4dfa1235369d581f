"""ReasonEdit's benchmark: pixels outside the edited object against the source, and the noun inside it, by category.

Source: SmartEdit (arXiv 2312.06739), test/metrics_evaluation.py.
"""

import hashlib
from collections import Counter

from fireedit.jobs.evaluation.sets.evaluation_set import Comparison, EvaluationSet, SetError, Turn
from fireedit.platform import storage
from fireedit.platform.data.corpora.reasonedit import ReasonEditCase, find_cases

SIDE = 256
"""Side of the squares that are compared, pixels."""
SIZE = 219
"""Edits of the published benchmark."""
ALL = "all"
COLUMNS = ("psnr_outside", "ssim_outside", "lpips_outside", "mse_outside", "clip_score")


def open_set(root: str, partial: bool = False) -> EvaluationSet:
    """Open the six folders of the benchmark.

    Args:
        partial: take another number of pictures than the published one.
    Raises:
        SetError: their number is another, or a picture has no mask, instruction or noun.
        CorpusError: a folder is missing, or does not fit its file of instructions.
    """
    cases = [case for _, case in find_cases(root, Counter())]
    for case in cases:
        if not (case.mask and case.instruction and case.noun):
            found = f"mask {case.mask!r}, instruction {case.instruction!r:.60} and noun {case.noun!r}"
            raise SetError(f"{storage.join(root, case.picture)}: found {found}; all three are needed")
    if len(cases) != SIZE and not partial:
        raise SetError(f"{root}: found {len(cases)} edits of {SIZE}; write --partial to evaluate what is there")
    digest = hashlib.blake2b(repr(cases).encode(), digest_size=8)
    return EvaluationSet(
        name="reasonedit",
        fingerprint=digest.hexdigest(),
        turns=[_turn(root, case) for case in cases],
        comparisons=[_comparison(root, case) for case in cases],
        columns=COLUMNS,
        partial=len(cases) != SIZE,
        totals={ALL: list(dict.fromkeys(case.category for case in cases))},
    )


def _turn(root: str, case: ReasonEditCase) -> Turn:
    return Turn(output=case.picture, instruction=case.instruction, source=storage.join(root, case.picture))


def _comparison(root: str, case: ReasonEditCase) -> Comparison:
    return Comparison(
        table=case.category,
        unit=case.picture,
        output=case.picture,
        reference=storage.join(root, case.picture),
        mask=storage.join(root, case.mask),
        noun=case.noun,
    )
