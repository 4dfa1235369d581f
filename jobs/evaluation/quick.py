"""Quick check of the weights in a folder: a few edits of every family, without a cache or a report."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fireedit.jobs.evaluation.cases import FAMILIES, Cases, EditCase, batches, stacked
from fireedit.jobs.evaluation.editors import FireEditor, RowName, has_vlm, make_editor
from fireedit.jobs.evaluation.metrics import edit_mask, pixel_scores
from fireedit.jobs.evaluation.report import gallery, unselected
from fireedit.jobs.evaluation.scene_reader import load_reader
from fireedit.jobs.evaluation.success import verdicts
from fireedit.models.model import preset
from fireedit.platform.scenes.families import NO_OP


def quick(folder: Path, edits: int = 8, device: str = "cpu") -> tuple[dict[str, float], Image.Image]:
    """Edit the first `edits` held-out cases of each family with the weights in a folder.

    The folder needs a UNet; a VLM and a scene reader are used if it has them.

    Returns:
        Figures prefixed by row, `full_` with the VLM and `ip2p_` without: `l1_inside`, `l1_outside`,
        `inside_over_copy` (1: no better than a copy) and `distance_to_text` (MSE of edit tokens to the text states of
        the instruction or of the plain one); with a scene reader also `success`, `relative` (to its pass rate on true
        targets) and the same by family, as `success_FAMILY`. Then a gallery of the first row's edits.
    """
    sizes = preset("nano")
    held_out = Cases(sizes.vae.sample_size)
    cases = [case for family in FAMILIES for case in held_out.of("unseen_seeds", family, edits)]
    figures, galleries = dict[str, float](), list[Image.Image]()
    for row in ("full", "ip2p") if has_vlm(folder) else ("ip2p",):
        editor = make_editor(RowName(row, str(folder), "predicted"), sizes, {}, device)
        edited = np.concatenate([editor.edit(batch) for batch in batches(cases)])
        measured = _errors(cases, edited) | _rates(folder, device, cases, edited)
        if isinstance(editor, FireEditor):
            distances = [distance for batch in batches(cases) for distance in editor.distances_to_text(batch)]
            measured["distance_to_text"] = sum(distances) / len(distances)
        figures |= {f"{row}_{name}": value for name, value in measured.items()}
        galleries.append(_gallery(cases, edited))
    return figures, galleries[0]


def _errors(cases: Sequence[EditCase], edited: np.ndarray) -> dict[str, float]:
    """Mean L1 inside and outside the masks of edits that change something, and the former relative to a copy's."""
    changed = [index for index, case in enumerate(cases) if case.family != NO_OP]
    arrays = (stacked(cases, "source"), stacked(cases, "target"), edited)
    source, target, output = (torch.from_numpy(array[changed]) for array in arrays)
    mask = edit_mask(source, target)
    errors, copied = pixel_scores(output, target, mask), pixel_scores(source, target, mask)
    figures = {name: float(errors[name].nanmean()) for name in ("l1_inside", "l1_outside")}
    return figures | {"inside_over_copy": figures["l1_inside"] / float(copied["l1_inside"].nanmean())}


def _rates(folder: Path, device: str, cases: Sequence[EditCase], edited: np.ndarray) -> dict[str, float]:
    """Success and relative success, of all cases and by family; empty without a scene reader in the folder."""
    try:
        reader = load_reader(folder).to(device)
    except FileNotFoundError:
        return {}
    passed, possible = (
        np.array([not wrong for wrong in verdicts(cases, reader.read(pictures))])
        for pictures in (edited, stacked(cases, "target"))
    )
    rates, families = dict[str, float](), np.array([case.family for case in cases])
    for suffix, chosen in {"": families != "", **{f"_{family}": families == family for family in families}}.items():
        rates[f"success{suffix}"] = float(passed[chosen].mean())
        if possible[chosen].any():
            rates[f"relative{suffix}"] = float(passed[chosen].sum() / possible[chosen].sum())
    return rates


def _gallery(cases: Sequence[EditCase], edited: np.ndarray) -> Image.Image:
    shown = {}
    for family in dict.fromkeys(case.family for case in cases):
        chosen = [index for index, case in enumerate(cases) if case.family == family]
        shown[family] = unselected([cases[index] for index in chosen], edited[chosen])
    return gallery(shown, "First held-out edits of every family, unselected: source, edited, target")
