"""Quick check of the weights in a folder: a few edits of every family, without a cache or a report."""

from pathlib import Path

from PIL import Image

from fireedit.jobs.evaluation.bars import SPLIT
from fireedit.jobs.evaluation.cases import FAMILIES, Cases, stacked
from fireedit.jobs.evaluation.editors import FireEditor, RowName, has_vlm, make_editor
from fireedit.jobs.evaluation.judges import Judges
from fireedit.jobs.evaluation.report import gallery, unselected
from fireedit.jobs.evaluation.results import BenchmarkConfig, Results
from fireedit.jobs.evaluation.scene_reader import FOLDER, WEIGHTS, load_reader
from fireedit.models.model import NANO, preset
from fireedit.platform.scenes.families import NO_OP


def quick(folder: Path, edits: int = 8, device: str = "cpu") -> tuple[dict[str, float], Image.Image]:
    """Edit the first `edits` held-out cases of each family with the weights in a folder.

    The folder needs a UNet; a VLM is used if it has one, and its scene reader or else the shipped one.

    Returns:
        Figures prefixed by row, `full_` with the VLM and `ip2p_` without: `l1_inside`, `l1_outside`,
        `inside_over_copy` (1: no better than a copy), `success`, `relative` (to its pass rate on true targets), the
        last two also by family, as `success_FAMILY`, and `distance_to_text` (MSE of edit tokens to the text states of
        the instruction or of the plain one). Then a gallery of the first row's edits.
    """
    sizes = preset("nano")
    cases = Cases(sizes.vae.sample_size)
    judges = Judges(load_reader(folder if (folder / FOLDER / WEIGHTS).is_file() else NANO).to(device))
    rows = ("full", "ip2p") if has_vlm(folder) else ("ip2p",)
    editors = {row: make_editor(RowName(row, str(folder), "predicted"), sizes, {}, device) for row in rows}
    scores, shown, distances = {}, {}, list[float]()
    for family in FAMILIES:
        family_cases = cases.of(SPLIT, family, edits)
        edited = {"copy": stacked(family_cases, "source"), "target": stacked(family_cases, "target")}
        edited |= {row: editor.edit(family_cases) for row, editor in editors.items()}
        scores[family] = {row: judges.scores(family_cases, pictures) for row, pictures in edited.items()}
        shown[family] = unselected(family_cases, edited[rows[0]])
        if isinstance(editor := editors[rows[0]], FireEditor):
            distances += editor.distances_to_text(family_cases)
    results = Results(BenchmarkConfig([SPLIT], list(FAMILIES), edits, 0, cases.side), [], {}, {SPLIT: scores})
    figures = {f"{row}_{name}": value for row in rows for name, value in _figures(results, row).items()}
    figures |= {"full_distance_to_text": sum(distances) / len(distances)} if distances else {}
    return figures, gallery(shown, "First held-out edits of every family, unselected: source, edited, target")


def _figures(results: Results, row: str) -> dict[str, float]:
    """Figures of a row; errors are those of edits that change something."""
    changed = [family for family in FAMILIES if family != NO_OP]
    figures = {name: results.mean(SPLIT, changed, row, name).mean for name in ("l1_inside", "l1_outside")}
    figures["inside_over_copy"] = figures["l1_inside"] / results.mean(SPLIT, changed, "copy", "l1_inside").mean
    for suffix, families in {"": FAMILIES, **{f"_{family}": (family,) for family in FAMILIES}}.items():
        figures[f"success{suffix}"] = results.mean(SPLIT, families, row).mean
        if (relative := results.relative(SPLIT, families, row)).count:
            figures[f"relative{suffix}"] = relative.mean
    return figures
