"""MagicBrush's dev and test sets, single-turn and multi-turn.

Single: every turn starts from the true target of the turn before; the mean is over turns. Multi: every turn starts from
the editor's own output, and only the last output of a session is compared, with the session's last target; the mean is
over sessions. Sessions of one turn count in both. Files are named as MagicBrush's own script expects them.

Source: MagicBrush (arXiv 2306.10012), edit_cli_single_multi_turn.py and evaluation/image_eval.py.
"""

import hashlib
import json
from collections.abc import Sequence
from itertools import groupby

from fireedit.jobs.evaluation.sets.evaluation_set import Comparison, EvaluationSet, SetError, Turn
from fireedit.platform import storage
from fireedit.platform.data.corpora.magicbrush import GLOBAL, LOCAL, MagicBrushTurn, find_turns

SIZES = {"dev": (266, 528), "test": (535, 1053)}
"""Sessions and turns of the published sets."""
SINGLE, MULTI = "single-turn", "multi-turn"
COLUMNS = ("l1", "l2", "clip_i", "dino", "clip_t", "clip_t_global")


def open_set(root: str, split: str, partial: bool = False) -> EvaluationSet:
    """Open the folder ROOT/SPLIT, unpacked: `images/`, `edit_sessions.json` and the two files of descriptions.

    Args:
        partial: take a folder of other size than the published one.
    Raises:
        SetError: sessions, turns or captions are missing.
        CorpusError: there is no such folder.
    """
    found = find_turns(root, split)
    if bad := [(name, turn) for name, turn in found if not isinstance(turn, MagicBrushTurn)]:
        raise SetError(f"{len(bad)} of {len(found)} turns cannot be read, first {bad[0][0]}: {bad[0][1]}")
    turns = [turn for _, turn in found]
    for file, captions in (
        (LOCAL, [turn.local_caption for turn in turns]),
        (GLOBAL, [t.global_caption for t in turns]),
    ):
        if not all(captions):
            lacking = f"{captions.count('')} of {len(captions)} targets have no caption"
            raise SetError(f"{storage.join(root, split, file)}: {lacking}; CLIP-T needs the published file")
    sessions = [list(session) for _, session in groupby(turns, key=lambda turn: turn.target.rpartition("/")[0])]
    if (size := (len(sessions), len(turns))) != SIZES[split] and not partial:
        wanted = "{} sessions of {} turns".format(*SIZES[split])
        raise SetError(
            f"{storage.join(root, split)}: found {size[0]} sessions of {size[1]} turns, not {wanted}; write --partial "
            "to evaluate what is there"
        )
    painted, compared = _single(root, sessions), _multi(root, sessions)
    digest = hashlib.blake2b(json.dumps([vars(turn) for turn in turns]).encode(), digest_size=8)
    return EvaluationSet(
        name=f"magicbrush-{split}",
        fingerprint=digest.hexdigest(),
        turns=[turn for session in sessions for turn in _turns(root, session)],
        comparisons=[*painted, *compared],
        columns=COLUMNS,
        partial=size != SIZES[split],
    )


def output_name(turn: MagicBrushTurn, number: int, kind: str = "inde") -> str:
    """Name the output of a session's turn, from 1, painted alone (`inde`) or after the earlier ones (`iter`)."""
    key = turn.target.split("/")[-2]
    return f"{key}/{key}_1.png" if number == 1 else f"{key}/{key}_{kind}_{number}.png"


def _turns(root: str, session: Sequence[MagicBrushTurn]) -> list[Turn]:
    """List the turns to paint: the chain of a session, then its later turns alone."""
    chained = [_turn(root, turn, number, "iter") for number, turn in enumerate(session, start=1)]
    return chained + [_turn(root, turn, number, "inde") for number, turn in enumerate(session[1:], start=2)]


def _turn(root: str, turn: MagicBrushTurn, number: int, kind: str) -> Turn:
    chained = kind == "iter" and number > 1
    return Turn(
        output=output_name(turn, number, kind),
        instruction=turn.instruction,
        source=output_name(turn, number - 1, kind) if chained else storage.join(root, turn.source),
        chained=chained,
        target=storage.join(root, turn.target),
    )


def _single(root: str, sessions: Sequence[Sequence[MagicBrushTurn]]) -> list[Comparison]:
    return [
        _comparison(root, SINGLE, turn, output_name(turn, number))
        for session in sessions
        for number, turn in enumerate(session, start=1)
    ]


def _multi(root: str, sessions: Sequence[Sequence[MagicBrushTurn]]) -> list[Comparison]:
    lasts = [(session[-1], len(session)) for session in sessions]
    return [_comparison(root, MULTI, turn, output_name(turn, number, "iter")) for turn, number in lasts]


def _comparison(root: str, table: str, turn: MagicBrushTurn, output: str) -> Comparison:
    return Comparison(
        table=table,
        unit=output.partition("/")[0],
        output=output,
        reference=storage.join(root, turn.target),
        caption=turn.local_caption,
        global_caption=turn.global_caption,
    )
