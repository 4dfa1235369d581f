"""Quick check of the weights in a folder: a few edits of every family, without a cache or a report."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fireedit.jobs.evaluation.cases import FAMILIES, Cases, EditCase
from fireedit.jobs.evaluation.editors import FireEditor, RowName, has_vlm, make_editor
from fireedit.jobs.evaluation.metrics import edit_mask, pixel_scores
from fireedit.jobs.evaluation.report import gallery, unselected
from fireedit.jobs.evaluation.run import batches
from fireedit.jobs.evaluation.scene_reader import load_reader
from fireedit.jobs.evaluation.success import judge
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
    source, target = (
        torch.from_numpy(np.stack([getattr(cases[index], name) for index in changed])) for name in ("source", "target")
    )
    mask = edit_mask(source, target)
    errors, copied = (pixel_scores(each, target, mask) for each in (torch.from_numpy(edited[changed]), source))
    inside = float(errors.l1_inside.nanmean())
    outside, over_copy = float(errors.l1_outside.nanmean()), inside / float(copied.l1_inside.nanmean())
    return {"l1_inside": inside, "l1_outside": outside, "inside_over_copy": over_copy}


def _rates(folder: Path, device: str, cases: Sequence[EditCase], edited: np.ndarray) -> dict[str, float]:
    """Success and relative success, of all cases and by family; empty without a scene reader in the folder."""
    try:
        reader = load_reader(folder).to(device)
    except FileNotFoundError:
        return {}
    targets = np.stack([case.target for case in cases])
    passed, possible = (
        [judge([case.edit], reading).success for case, reading in zip(cases, reader.read(pictures), strict=True)]
        for pictures in (edited, targets)
    )
    rates = dict[str, float]()
    for family in ("", *dict.fromkeys(case.family for case in cases)):
        chosen = [index for index, case in enumerate(cases) if family in ("", case.family)]
        count, limit, suffix = sum(passed[i] for i in chosen), sum(possible[i] for i in chosen), family and f"_{family}"
        rates[f"success{suffix}"] = count / len(chosen)
        if limit:
            rates[f"relative{suffix}"] = count / limit
    return rates


def _gallery(cases: Sequence[EditCase], edited: np.ndarray) -> Image.Image:
    shown = {}
    for family in dict.fromkeys(case.family for case in cases):
        chosen = [index for index, case in enumerate(cases) if case.family == family]
        shown[family] = unselected([cases[index] for index in chosen], edited[chosen])
    return gallery(shown, "First held-out edits of every family, unselected: source, edited, target")
