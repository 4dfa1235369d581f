"""Editors at work: pictures of cases, kept once they are made, sessions in which one edit follows another, and a quick
look at what a folder's weights do."""

import hashlib
import io
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image

from fireedit.jobs.evaluation.cases import FAMILIES, Case, Cases
from fireedit.jobs.evaluation.editors import Editor, FireEditor, RowName, has_vlm, make_editor
from fireedit.jobs.evaluation.metrics import edit_mask, l1_where, pixel_scores
from fireedit.jobs.evaluation.report import GALLERY, gallery
from fireedit.jobs.evaluation.results import Row, Turns
from fireedit.jobs.evaluation.scene_reader import SceneReader, load_reader
from fireedit.jobs.evaluation.success import judge
from fireedit.models.model import preset
from fireedit.platform import storage
from fireedit.platform.scenes.families import NO_OP

BATCH = 20
"""Cases that are edited together and kept in one file."""

Found = TypeVar("Found")
"""Anything that is found of each case."""
Tell = Callable[[str], None]
"""Says how far one is."""


@dataclass(frozen=True)
class Contestant:
    """An editor with its row."""

    row: Row
    editor: Editor

    @property
    def key(self) -> str:
        """Names all that its pictures depend on, but for the cases."""
        text = f"{self.editor.weights} {self.editor.manner}"
        return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def edited_pictures(one: Contestant, cases: Sequence[Case], home: str, tell: Tell) -> np.ndarray:
    """What an editor makes of cases of one split and family, uint8 RGB [B, S, S, 3].

    Batches that were made before are read from `home`.
    """
    return np.concatenate(
        [
            _batch(one, batch, number * BATCH, home, tell) if one.editor.weights else one.editor.edit(batch)
            for number, batch in enumerate(_batches(cases))
        ]
    )


def play(one: Contestant, sessions: Sequence[Sequence[Case]], reader: SceneReader, home: str, tell: Tell) -> Turns:
    """Let an editor go through sessions, each turn on the picture that it made in the turn before."""
    first, turns = _stacked(sessions, 0, "source"), range(len(sessions[0]))
    masks = [edit_mask(_stacked(sessions, turn, "source"), _stacked(sessions, turn, "target")) for turn in turns]
    outside = ~torch.stack(masks).any(dim=0)
    pictures, l1_outside = first.numpy(), list[list[float]]()
    for turn in turns:
        cases = [replace(session[turn], source=picture) for session, picture in zip(sessions, pictures, strict=True)]
        pictures = edited_pictures(one, cases, home, tell)
        l1_outside.append(l1_where(torch.from_numpy(pictures), first, outside).tolist())
    readings = reader.read(pictures)
    verdicts = [
        judge([case.edit for case in session], reading) for session, reading in zip(sessions, readings, strict=True)
    ]
    return Turns(l1_outside=l1_outside, success=[verdict.success for verdict in verdicts])


def quick(folder: Path, edits: int = 8, device: str = "cpu") -> tuple[dict[str, float], Image.Image]:
    """Edit the first `edits` held-out cases of each family with the weights in a folder, and keep nothing.

    Needs a UNet; a VLM, and a judge beside the other parts, are used if they are there.

    Returns:
        Figures by name, first by row (`full` with the VLM, `ip2p` without): `ROW_l1_inside`, `ROW_l1_outside` and
        `ROW_inside_over_copy` (1: no better than a copy), `full_distance_to_text` (squared, of edit tokens to the text
        states of the instruction or the plain one), with a judge also `ROW_success`, `ROW_relative` (to what it
        passes of the true targets) and the same two by family, `ROW_success_FAMILY`; and a sheet of source, edited and
        target by the first row.
    """
    sizes = preset("nano")
    cases = Cases(sizes.vae.sample_size)
    everything = [case for family in FAMILIES for case in cases.of("unseen_seeds", family, edits)]
    try:
        reader = load_reader(folder).to(device)
    except FileNotFoundError:
        reader = None
    targets = _by_family(everything, _passes(reader, everything, _pictures(everything, "target")))
    figures, made = dict[str, float](), list[np.ndarray]()
    for row in ("full", "ip2p") if has_vlm(folder) else ("ip2p",):
        editor = make_editor(RowName(row, str(folder), "predicted"), sizes, {}, device)
        made.append(np.concatenate([editor.edit(batch) for batch in _batches(everything)]))
        successes = _by_family(everything, _passes(reader, everything, made[-1]))
        told = _errors(everything, made[-1]) | (_rates(successes, targets) if reader else {})
        if isinstance(editor, FireEditor):
            distances = [one for batch in _batches(everything) for one in editor.distances_to_text(batch)]
            told["distance_to_text"] = sum(distances) / len(distances)
        figures |= {f"{row}_{name}": value for name, value in told.items()}
    first = _by_family(everything, list(zip(everything, made[0], strict=True)))
    return figures, gallery(
        {family: pairs[:GALLERY] for family, pairs in first.items()},
        "The first held-out edits of every family, picked by nobody: source, edited, target",
    )


def _by_family(cases: Sequence[Case], values: Sequence[Found]) -> dict[str, list[Found]]:
    """One value of each case, apart by the families of the cases; nothing if there are no values."""
    found = dict[str, list[Found]]()
    for case, value in zip(cases, values, strict=bool(values)):
        found.setdefault(case.family, []).append(value)
    return found


def _batches(cases: Sequence[Case]) -> list[Sequence[Case]]:
    return [cases[first : first + BATCH] for first in range(0, len(cases), BATCH)]


def _passes(reader: SceneReader | None, cases: Sequence[Case], pictures: np.ndarray) -> list[bool]:
    """Verdicts on pictures of cases; none without a judge."""
    if reader is None:
        return []
    return [judge([case.edit], reading).success for case, reading in zip(cases, reader.read(pictures), strict=True)]


def _errors(cases: Sequence[Case], made: np.ndarray) -> dict[str, float]:
    """Mean L1 inside and outside the masks, and that inside over a copy's, of the edits that change something."""
    changed = [index for index, case in enumerate(cases) if case.family != NO_OP]
    source, target = (
        torch.from_numpy(_pictures([cases[index] for index in changed], name)) for name in ("source", "target")
    )
    mask = edit_mask(source, target)
    ours, copies = (pixel_scores(one, target, mask) for one in (torch.from_numpy(made[changed]), source))
    inside = float(ours.l1_inside.nanmean())
    return {
        "l1_inside": inside,
        "l1_outside": float(ours.l1_outside.nanmean()),
        "inside_over_copy": inside / float(copies.l1_inside.nanmean()),
    }


def _rates(successes: Mapping[str, list[bool]], targets: Mapping[str, list[bool]]) -> dict[str, float]:
    """Success, and success relative to that of the true targets where one of them passes: of all, and by family."""
    every = {"": list(successes)} | {f"_{family}": [family] for family in successes}
    rates = dict[str, float]()
    for name, families in every.items():
        ours, theirs = ([one for family in families for one in found[family]] for found in (successes, targets))
        rates[f"success{name}"] = sum(ours) / len(ours)
        if any(theirs):
            rates[f"relative{name}"] = sum(ours) / sum(theirs)
    return rates


def _pictures(cases: Sequence[Case], name: str) -> np.ndarray:
    """Their `source` or `target`, uint8 RGB [B, S, S, 3]."""
    return np.stack([getattr(case, name) for case in cases])


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
