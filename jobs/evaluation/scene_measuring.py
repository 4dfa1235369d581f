"""Measures of drawn scenes, whose truth is known: the scene reader's verdict, errors inside and outside the edit."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from fireedit.jobs.evaluation.cases import EditCase
from fireedit.jobs.evaluation.judges import Judges
from fireedit.jobs.evaluation.measuring import Found, Measuring, Values, answer
from fireedit.jobs.evaluation.metrics import edit_mask, pixel_scores
from fireedit.jobs.evaluation.picture_files import read_picture
from fireedit.jobs.evaluation.sets.evaluation_set import Comparison
from fireedit.jobs.evaluation.sets.scenes import COLUMNS, READER, SIDE, draw_again
from fireedit.jobs.evaluation.success import faults, verdicts
from fireedit.models.checkpoint_files import quiet_loading
from fireedit.models.processor import squash
from fireedit.platform import storage

Verdict = tuple[Values, Sequence[str]]
"""Measures of an output, and the reasons for which the edit fails."""


class SceneReplica:
    """Judges of one process, as Ray Data calls them."""

    def __init__(self, measuring: Measuring):
        quiet_loading()
        self.measuring, self.judges = measuring, Judges.load(measuring.judges, measuring.device)

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return answer(row, lambda comparisons: judge_scenes(comparisons, self.measuring.pictures, self.judges))


def judge_scenes(comparisons: Sequence[Comparison], pictures: str, judges: Judges) -> Found:
    """Judge outputs below the folder `pictures`; those of another size are squashed to the scenes'."""
    outputs = np.stack([_output(storage.join(pictures, each.output)) for each in comparisons])
    chains = [draw_again(each.case) for each in comparisons]
    singles = [place for place, (chain, _) in enumerate(chains) if len(chain) == 1]
    judged = dict[int, Verdict]()
    if singles:
        cases = [chains[place][0][0] for place in singles]
        judged |= zip(singles, _judge_edits(cases, outputs[singles], judges), strict=True)
    for place in sorted({*range(len(chains))} - {*singles}):
        chain, turn = chains[place]
        judged[place] = _judge_turn(chain, turn, outputs[place], judges)
    ordered = [judged[place] for place in range(len(chains))]
    return Found(
        values=[{column: values.get(column, math.nan) for column in COLUMNS} for values, _ in ordered],
        weights=judges.weights,
        remarks=["; ".join(wrong) for _, wrong in ordered],
    )


def _judge_edits(cases: Sequence[EditCase], edited: np.ndarray, judges: Judges) -> list[Verdict]:
    """Judge edits, uint8 [B, S, S, 3], and the scene reader by its reading of the true targets."""
    unread = verdicts(cases, judges.reader.read(np.stack([case.target for case in cases])))
    return [
        ({**score.measures, READER: float(not reasons)}, score.wrong)
        for score, reasons in zip(judges.scores(cases, edited), unread, strict=True)
    ]


def _judge_turn(session: Sequence[EditCase], turn: int, edited: np.ndarray, judges: Judges) -> Verdict:
    """Compare the output of a turn with the session's first source outside the masks of all its turns.

    The last one's scene must be what the session asks for.
    """
    masks = [edit_mask(_batch(case.source), _batch(case.target)) for case in session]
    scores = pixel_scores(_batch(edited), _batch(session[0].source), torch.stack(masks).any(dim=0))
    measured = {"l1_outside": scores["l1_outside"].item()}
    if turn < len(session) - 1:
        return measured, ()
    wrong = faults([case.edit for case in session], judges.reader.read(edited[None])[0])
    return measured | {"success": float(not wrong)}, wrong


def _batch(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture[None].copy())


def _output(address: str) -> np.ndarray:
    return squash(read_picture(address), SIDE)
