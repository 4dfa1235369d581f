"""Report of an evaluation on drawn scenes: success by family, sessions, bars, all measures, galleries."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fireedit.jobs.evaluation.bars import KNOWLEDGE, SPLIT, Bar, all_bars, family_bars, split_bars
from fireedit.jobs.evaluation.cases import EditCase
from fireedit.jobs.evaluation.judges import MEASURES, Judges
from fireedit.jobs.evaluation.metrics import Interval, interval
from fireedit.jobs.evaluation.picture_files import read_picture
from fireedit.jobs.evaluation.scene_results import REFERENCE, UNDERSTANDING, Results, Row
from fireedit.jobs.evaluation.sets.evaluation_set import Comparison
from fireedit.jobs.evaluation.sets.scenes import SESSION, draw_again
from fireedit.jobs.evaluation.tables import Baseline, Evaluation
from fireedit.platform import images, storage
from fireedit.platform.sheet import Panel, sheet

GALLERY = 2
"""Cases of each family in a gallery."""
PICTURE = 160
"""Side of a picture on a sheet, pixels."""
GAP = 4
"""Space between pictures, pixels."""
HEADER = 32
"""Height of a gallery's title, pixels."""

Gallery = Sequence[tuple[EditCase, np.ndarray]]
"""Cases with their edited pictures, uint8 RGB [S, S, 3]."""

_METHOD = """\
An edit succeeds if the scene reader detects the requested change in the edited picture *and* everything else unchanged:
names, places, sizes and colors of all objects, no additional object, background, style, mirror. Column `target` is the
scene reader's own accuracy. "Relative" is an editor's success divided by that of the true targets of the same edits
(for a no-op, of the unchanged source). Percent with 95 % bootstrap intervals; relative success and leads are resampled
in pairs by edit.
"""


def results_of(evaluation: Evaluation, baselines: Sequence[Baseline]) -> Results:
    """Collect the scores of the scene reader, of the baselines, and of the evaluation's editor as the last row.

    Edits that one of them has not painted are left out of all.
    """
    own, measured = evaluation.measured, [*(each.values for each in baselines), evaluation.measured.values]
    common = [place for place, values in enumerate(zip(*measured, strict=True)) if all(values)]
    comparisons = [evaluation.edits.comparisons[place] for place in common]
    editors: list[Baseline | Evaluation] = [*baselines, evaluation]
    names = [each.editor for each in editors]
    names = [
        f"{name} {each.weights[:12]}" if names.count(name) > 1 else name
        for name, each in zip(names, editors, strict=True)
    ]
    rows = [Row(name, each.weights, _painting(each)) for name, each in zip(names, editors, strict=True)]
    results = Results([Row(REFERENCE), *rows], own.weights)
    results.add_reader(comparisons, [own.values[place] for place in common])
    for name, values in zip(names, measured, strict=True):
        results.add(name, comparisons, [values[place] for place in common])
    return results


def _painting(editor: Evaluation | Baseline) -> str:
    used = editor.settings
    if not editor.weights or not used:
        return ""
    words = [f"steps {used['num_inference_steps']}", f"s_T {used['guidance_scale']:g}"]
    words += [f"s_I {used['image_guidance_scale']:g}"]
    words += [f"keep below {used['keep_below']:g}"] if used["keep_below"] else []
    return ", ".join([*words, *([f"{used['regions']} regions"] if "regions" in used else [])])


def markdown(results: Results, judges: Judges) -> str:
    """Format the report."""
    absent, rows = judges.absent, results.rows
    lines = [f"# {rows[-1].name} on scenes", "", _METHOD]
    lines += _table(
        ["row", "weights", "painting"], [[row.name, row.weights or "-", row.painting or "-"] for row in rows]
    )
    lines += ["", "Judges: " + ", ".join(f"{name} `{weights}`" for name, weights in results.judges.items()) + "."]
    lines += [judges.description]
    if absent:
        lines += ["", f"Not measured, for lack of the judges: {', '.join(MEASURES[measure] for measure in absent)}."]
    lines += _bars(results)
    for split in results.scores:
        lines += ["", f"## {split}", "", *_successes(results, split), *_leads(results, split)]
        if split in results.sessions:
            lines += ["", "Sessions:", "", *_sessions(results, split)]
        lines += ["", *_measures(results, split, absent)]
    return "\n".join(lines) + "\n"


def summary(results: Results) -> dict[str, Any]:
    """Success and relative success of each row over all families of each split; L1, sessions and bars of the last."""
    last, bars = results.rows[-1].name, all_bars(results)
    sessions = {
        split: {
            "last_turn_over_first": _figure(results.growth(split, last)),
            "last_scene": _figure(results.last_scene(split, last)),
        }
        for split in results.sessions
    }
    return {
        "success": _by_row(results, results.mean),
        "relative": _by_row(results, results.relative),
        "l1_outside": {split: _figure(results.outside(split, last)) for split in results.scores},
        "sessions": sessions,
        "bars": {bar.name: {"found": _figure(bar.measured), "wanted": bar.wanted, "met": bar.met} for bar in bars},
        "bars_met": sum(bar.met for bar in bars),
        "bars_of": len(bars),
    }


def _by_row(results: Results, figure: Callable[[str, Sequence[str], str], Interval]) -> dict[str, object]:
    """Figures over all families by row and split."""
    splits = {split: list(families) for split, families in results.scores.items()}
    return {
        row.name: {split: _figure(figure(split, families, row.name)) for split, families in splits.items()}
        for row in results.rows
    }


def gallery(shown: Mapping[str, Gallery], title: str, columns: int = GALLERY) -> Image.Image:
    """Draw source, edited picture and target of cases by family under a title."""
    panels = [
        Panel(image=_side_by_side([case.source, picture, case.target]), title=f"{family}: {case.instruction}")
        for family, cases in shown.items()
        for case, picture in cases
    ]
    pictures = sheet(panels, columns=columns, height=PICTURE)
    page = Image.new("RGB", (pictures.width, pictures.height + HEADER), "white")
    page.paste(pictures, (0, HEADER))
    ImageDraw.Draw(page).text((8, 8), title, fill="black", font=ImageFont.load_default(size=16))
    return page


def save_galleries(evaluation: Evaluation, pictures: str, out: str) -> None:
    """Write SPLIT-gallery.png of the first edits of each family, and SPLIT-passed.png of the first that succeeded.

    Args:
        pictures: folder of the outputs.
    """
    first, passed = dict[str, dict[str, list[Comparison]]](), dict[str, dict[str, list[Comparison]]]()
    for comparison, values in zip(evaluation.edits.comparisons, evaluation.measured.values, strict=True):
        split, family = comparison.table.split("/")
        if family.startswith(SESSION):
            continue
        shown = first.setdefault(split, {}).setdefault(family, [])
        if len(shown) < GALLERY:
            shown.append(comparison)
        best = passed.setdefault(split, {}).setdefault(family, [])
        if values["success"] and not best:
            best.append(comparison)
    order = "(source, edited, target)"
    for split in first:
        title = f"{split}: the first edits of every family, unselected {order}"
        _save(gallery(_opened(first[split], pictures), title), out, f"{split}-gallery.png")
        if any(passed[split].values()):
            title = f"{split}: the first edit of every family that the judge passed {order}"
            _save(gallery(_opened(passed[split], pictures), title, columns=4), out, f"{split}-passed.png")


def unselected(cases: Sequence[EditCase], edited: np.ndarray) -> Gallery:
    """Pair the first `GALLERY` cases of a family with their edited pictures, uint8 RGB [B, S, S, 3]."""
    return list(zip(cases, edited, strict=True))[:GALLERY]


def _opened(shown: Mapping[str, Sequence[Comparison]], pictures: str) -> dict[str, Gallery]:
    return {
        family: [
            (draw_again(each.case)[0][0], read_picture(storage.join(pictures, each.output))) for each in comparisons
        ]
        for family, comparisons in shown.items()
    }


def _save(page: Image.Image, out: str, name: str) -> None:
    storage.write_bytes(storage.join(out, name), images.encode_png(np.asarray(page)))


def _bars(results: Results) -> list[str]:
    """Count the bars that the last row meets, and list those of whole splits."""
    bars, others, last = all_bars(results), list(split_bars(results)), results.rows[-1].name
    if not bars:
        return []
    met = sum(bar.met for bar in bars)
    lines = ["", f"`{last}` meets {met} of {len(bars)} bars; those of families are in the table of {SPLIT}."]
    if others:
        body = [[bar.name, (_plain if bar.is_limit else _percent)(bar.measured), *_wanted(bar)] for bar in others]
        lines += ["", *_table(["bar", f"`{last}`", "wanted", "met"], body)]
    return lines


def _successes(results: Results, split: str) -> list[str]:
    """Tabulate success by family and row, then relative success, then the bars."""
    names = [row.name for row in results.rows]
    editors = [row.name for row in results.rows if row.weights] if REFERENCE in names else []
    bars, body = family_bars(results) if split == SPLIT else {}, []
    for title, members in _groups(list(results.scores[split])):
        means = [results.mean(split, members, name) for name in names]
        cells = [title, str(means[0].count), *map(_percent, means)]
        cells += [_percent(results.relative(split, members, name)) for name in editors]
        if bars:
            cells += _wanted(bars[title]) if title in bars else ["", ""]
        body.append(cells)
    heads = ["family", "edits", *names, *(f"{name}, relative" for name in editors)]
    return _table([*heads, *(["wanted", "met"] if bars else [])], body)


def _groups(families: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Title each family, the understanding families together, and all together."""
    groups = [(family, [family]) for family in families]
    hard = [family for family in UNDERSTANDING if family in families]
    groups += [("**understanding**", hard)] if len(hard) > 1 else []
    return groups + ([("**all**", list(families))] if len(families) > 1 else [])


def _measures(results: Results, split: str, absent: Sequence[str]) -> list[str]:
    """Tabulate all measures of each row over all families, then of the last row by family."""
    families, last = list(results.scores[split]), results.rows[-1].name
    columns = [measure for measure in MEASURES if measure not in (*absent, "success")]

    def line(title: str, members: Sequence[str], row: str) -> list[str]:
        means = {measure: results.mean(split, members, row, measure) for measure in columns}
        return [title, *(_plain(mean, 1 if measure.startswith("psnr") else 4) for measure, mean in means.items())]

    heads = [MEASURES[measure] for measure in columns]
    rows = [row.name for row in results.rows if row.name != REFERENCE]
    by_row = _table(["row", *heads], [line(name, families, name) for name in rows])
    by_family = _table(["family", *heads], [line(family, [family], last) for family in families])
    return ["All families:", "", *by_row, "", *_outside(results, split), f"`{last}` by family:", "", *by_family]


def _outside(results: Results, split: str) -> list[str]:
    means = {row.name: results.outside(split, row.name) for row in results.rows}
    figures = [f"{name} {_plain(mean)}" for name, mean in means.items() if mean.count]
    return ["L1 outside the mask on edits of things: " + "; ".join(figures) + ".", ""] if figures else []


def _leads(results: Results, split: str) -> list[str]:
    """List the leads of the last row over the others on the understanding families."""
    hard = [family for family in UNDERSTANDING if family in results.scores[split]]
    if not hard or len(results.rows) < 2:
        return []
    *others, last = (row.name for row in results.rows)
    leads = [f"{other} {_percent(results.lead(split, hard, last, other))}" for other in others]
    where = "this split" if split == KNOWLEDGE else "the understanding families"
    return ["", f"Lead of `{last}` on {where}, in points, over " + "; ".join(leads) + "."]


def _sessions(results: Results, split: str) -> list[str]:
    sessions = results.sessions[split]
    turns = max(len(scores.l1_outside) for scores in sessions.values())
    body = []
    for name, scores in sessions.items():
        means = [_plain(interval(values)) for values in scores.l1_outside]
        body.append([name, *means, _plain(results.growth(split, name), 2), _percent(results.last_scene(split, name))])
    heads = [f"L1 outside all masks after turn {turn + 1}" for turn in range(turns)]
    return _table(["row", *heads, "last turn over first", "success of the last scene"], body)


def _table(heads: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *body]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _percent(mean: Interval) -> str:
    return _plain(mean, digits=0, factor=100)


def _plain(mean: Interval, digits: int = 4, factor: int = 1) -> str:
    middle, low, high = (f"{factor * value:.{digits}f}" for value in (mean.mean, mean.low, mean.high))
    return f"{middle} ({low} to {high})" if mean.count else "-"


def _figure(mean: Interval) -> float | None:
    return round(mean.mean, 4) if mean.count else None


def _wanted(bar: Bar) -> list[str]:
    """Format a bar, and whether it is met."""
    bound = f"at most {bar.wanted:g}" if bar.is_limit else f"{100 * bar.wanted:.0f}"
    return [bound, "met" if bar.met else "not met"]


def _side_by_side(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Enlarge pictures of one size, uint8 [S, S, 3], by repeating pixels, and concatenate them."""
    scale = max(1, PICTURE // pictures[0].shape[0])
    large = [picture.repeat(scale, axis=0).repeat(scale, axis=1) for picture in pictures]
    gap = np.full((large[0].shape[0], GAP, 3), 255, np.uint8)
    return np.concatenate([part for picture in large for part in (picture, gap)][:-1], axis=1)
