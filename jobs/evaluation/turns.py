"""Edits of an evaluation as a study asks about them: the picture that the editor got, the instruction, its output.

Only turns whose source is a picture of the set are kept: a chained turn starts from the editor's own output, which is
another one for every editor.
"""

import json
from dataclasses import asdict, dataclass

from fireedit.jobs.evaluation.sets.evaluation_set import EvaluationSet
from fireedit.platform import storage

TURNS = "turns.jsonl"
"""File in the folder of an evaluation."""


@dataclass(frozen=True, kw_only=True)
class PaintedTurn:
    """Edit that was made, with the addresses of its pictures."""

    output: str
    """File below the folder of pictures, the same for all editors."""
    instruction: str
    source: str
    picture: str
    """Output of the editor."""


def save_turns(edits: EvaluationSet, pictures: str, out: str) -> None:
    """Write the turns that have a picture; addresses below `out` are written relative to it, so that it may be moved.

    Args:
        pictures: folder of the editor's outputs.
        out: folder of the evaluation.
    """
    compared = {each.output for each in edits.comparisons}
    turns = [
        PaintedTurn(
            output=turn.output,
            instruction=turn.instruction,
            source=_relative(turn.source, out),
            picture=_relative(storage.absolute(storage.join(pictures, turn.output)), out),
        )
        for turn in edits.turns
        if not turn.chained and turn.output in compared
    ]
    storage.write_bytes(storage.join(out, TURNS), "".join(json.dumps(asdict(turn)) + "\n" for turn in turns).encode())


def read_turns(out: str) -> list[PaintedTurn]:
    """Read the turns of the folder of an evaluation, with whole addresses.

    Raises:
        OSError, ValueError, TypeError: the file is missing or holds something else.
    """
    rows = [json.loads(line) for line in storage.read_bytes(storage.join(out, TURNS)).splitlines()]
    places = [{name: _whole(row[name], out) for name in ("source", "picture")} for row in rows]
    return [PaintedTurn(**(row | place)) for row, place in zip(rows, places, strict=True)]


def _relative(address: str, out: str) -> str:
    root = storage.join(out.partition("?")[0] if storage.is_remote(out) else out, "")
    if not address.startswith(root):
        return address
    return (address.partition("?")[0] if storage.is_remote(address) else address).removeprefix(root)


def _whole(address: str, out: str) -> str:
    return address if storage.is_remote(address) or address.startswith("/") else storage.join(out, address)
