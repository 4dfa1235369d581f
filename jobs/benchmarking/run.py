"""Editors at work: pictures of cases, kept once they are made, and sessions in which one edit follows another."""

import hashlib
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from fireedit.jobs.benchmarking.cases import Case
from fireedit.jobs.benchmarking.editors import Editor
from fireedit.jobs.benchmarking.parser import SceneParser
from fireedit.jobs.benchmarking.results import Row, Turns
from fireedit.jobs.benchmarking.success import judge
from fireedit.models.metrics import edit_mask, l1_where
from fireedit.models.schedule import PaintSettings
from fireedit.platform import storage

BATCH = 20
"""Cases that are edited together and kept in one file."""

Tell = Callable[[str], None]
"""Says how far one is."""


@dataclass(frozen=True)
class Contestant:
    """An editor with the name of its row and how it paints."""

    row: Row
    editor: Editor
    paint: PaintSettings

    @property
    def key(self) -> str:
        """Names all that its pictures depend on, but for the cases."""
        text = f"{self.row.weights} {self.row.regions} {self.paint}"
        return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def edited_pictures(one: Contestant, cases: Sequence[Case], home: str, tell: Tell) -> np.ndarray:
    """What an editor makes of cases of one split and family, uint8 RGB [B, S, S, 3].

    Batches that were made before are read from `home`.
    """
    pictures = []
    for first in range(0, len(cases), BATCH):
        batch = cases[first : first + BATCH]
        pictures.append(_batch(one, batch, first, home, tell) if one.row.weights else one.editor.edit(batch))
    return np.concatenate(pictures)


def play(one: Contestant, sessions: Sequence[Sequence[Case]], parser: SceneParser, home: str, tell: Tell) -> Turns:
    """Let an editor go through sessions, each turn on the picture that it made in the turn before."""
    first, turns = _stacked(sessions, 0, "source"), range(len(sessions[0]))
    masks = [edit_mask(_stacked(sessions, turn, "source"), _stacked(sessions, turn, "target")) for turn in turns]
    outside = ~torch.stack(masks).any(dim=0)
    pictures, l1_outside = first.numpy(), list[list[float]]()
    for turn in turns:
        cases = [replace(session[turn], source=picture) for session, picture in zip(sessions, pictures, strict=True)]
        pictures = edited_pictures(one, cases, home, tell)
        l1_outside.append(l1_where(torch.from_numpy(pictures), first, outside).tolist())
    readings = parser.read(pictures)
    verdicts = [
        judge([case.edit for case in session], reading) for session, reading in zip(sessions, readings, strict=True)
    ]
    return Turns(l1_outside=l1_outside, success=[verdict.success for verdict in verdicts])


def _batch(one: Contestant, cases: Sequence[Case], first: int, home: str, tell: Tell) -> np.ndarray:
    """One batch, from its file if these very cases were edited before."""
    split, family = cases[0].split, cases[0].family
    name = f"{first:06d}-{_asked(cases)}.npy"
    path = storage.join(home, "benchmark", "edited", one.key, split, family, name)
    if storage.exists(path):
        return np.load(io.BytesIO(storage.read_bytes(path)), allow_pickle=False)
    began = time.monotonic()
    made = one.editor.edit(cases)
    buffer = io.BytesIO()
    np.save(buffer, made)
    storage.write_bytes(path, buffer.getvalue())
    each = (time.monotonic() - began) / len(cases)
    tell(f"{one.row.name}  {split}  {family}  {first + len(cases)} edits  {each:.2f} s each")
    return made


def _asked(cases: Sequence[Case]) -> str:
    """A hash of all that editors see of cases: another way to draw scenes must not be answered with old pictures."""
    digest = hashlib.blake2b(digest_size=6)
    for case in cases:
        digest.update(f"{case.instruction} {case.seed} {case.boxes}".encode())
        digest.update(case.source.tobytes() + case.target.tobytes())
    return digest.hexdigest()


def _stacked(sessions: Sequence[Sequence[Case]], turn: int, name: str) -> torch.Tensor:
    return torch.from_numpy(np.stack([getattr(session[turn], name) for session in sessions]))
