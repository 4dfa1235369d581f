"""A benchmark for people: tables of successes and measures by split, and sheets of pictures."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fireedit.jobs.evaluation.bars import KNOWLEDGE, SPLIT, Bar, all_bars, family_bars, other_bars
from fireedit.jobs.evaluation.cases import Case
from fireedit.jobs.evaluation.judges import MEASURES, Judges, Score
from fireedit.jobs.evaluation.metrics import Interval, interval
from fireedit.jobs.evaluation.results import REFERENCE, UNDERSTANDING, Results
from fireedit.platform.sheet import Panel, sheet

SHOWN = 8
"""Cases of a sheet: the first ones."""
GALLERY = 2
"""Cases of each family in a gallery."""
PICTURE = 160
"""Side of a picture on a sheet, pixels."""
GAP = 4
HEADER = 32
"""Height of the line above a gallery, pixels."""

Shown = Sequence[tuple[Case, np.ndarray]]
"""Cases with what an editor made of them, uint8 RGB [S, S, 3]."""

_HOW = """\
An edit is a success if the scene reader reads in the edited picture what was asked for *and* everything else as it was:
names, places, sizes and colors of all objects, no object too many, background, style, mirror. Row `target` shows how
often the reader itself is right, row `copy` what doing nothing earns. "Relative" is a row's success over that of the
true targets of the same cases (of a no-op: over that of the untouched source). Percent with 95 % bootstrap intervals,
those of relative figures and of leads paired by case.
"""


def markdown(results: Results, judges: Judges, command: str) -> str:
    """The whole report."""
    absent = judges.absent
    asked, rows = results.settings, results.rows
    lines = ["# Benchmark", "", _HOW]
    lines += [f"Made by `{command}`: {asked.edits} edits a family, pictures of {asked.side} px.", ""]
    cells = [[row.name, row.weights or "-", row.regions or "-", row.painting or "-"] for row in rows]
    lines += _table(["row", "weights", "regions", "painting"], cells)
    lines += ["", "Judges: " + ", ".join(f"{name} `{weights}`" for name, weights in results.judges.items()) + "."]
    lines += [judges.known]
    if absent:
        columns = ", ".join(MEASURES[measure] for measure in absent)
        lines += ["", f"Left out, for want of their judges: {columns}."]
    lines += _bars(results)
    for split in results.scores:
        lines += ["", f"## {split}", "", *_successes(results, split), *_leads(results, split)]
        if split in results.sessions:
            lines += ["", "Sessions:", "", *_sessions(results, split)]
        lines += ["", *_measures(results, split, absent)]
    return "\n".join(lines) + "\n"


def contact_sheet(cases: Sequence[Case], edited: dict[str, np.ndarray], scores: dict[str, list[Score]]) -> Image.Image:
    """The first cases of a family: source, what each row made of it and whether that succeeds, target."""
    rows, panels = [row for row in edited if row != "target"], []
    for index, case in enumerate(cases[:SHOWN]):
        pictures = [case.source, *(edited[row][index] for row in rows), case.target]
        marks = [f"{row}: {'yes' if scores[row][index].success else 'no'}" for row in rows]
        title = "   ".join((case.instruction, " | ".join(("source", *marks, "target"))))
        panels.append(Panel(image=_side_by_side(pictures), title=title))
    return sheet(panels, columns=1, height=PICTURE)


def gallery(shown: dict[str, Shown], title: str, columns: int = GALLERY) -> Image.Image:
    """Source, edited and target of some cases of each family, one after another, under a title."""
    panels = [
        Panel(image=_side_by_side([case.source, picture, case.target]), title=f"{family}: {case.instruction}")
        for family, edited in shown.items()
        for case, picture in edited
    ]
    pictures = sheet(panels, columns=columns, height=PICTURE)
    page = Image.new("RGB", (pictures.width, pictures.height + HEADER), "white")
    page.paste(pictures, (0, HEADER))
    ImageDraw.Draw(page).text((8, 8), title, fill="black", font=ImageFont.load_default(size=16))
    return page


def passed(cases: Sequence[Case], edited: np.ndarray, scores: Sequence[Score]) -> Shown:
    """The first case whose edited picture the judge passed; nothing if there is none."""
    right = [(case, picture) for case, picture, score in zip(cases, edited, scores, strict=True) if score.success]
    return right[:1]


def _bars(results: Results) -> list[str]:
    """How many bars the last row meets, and those that are about a whole split."""
    bars, others, last = all_bars(results), other_bars(results), results.rows[-1].name
    if not bars:
        return []
    met = sum(bar.met for bar in bars)
    lines = ["", f"`{last}` meets {met} of {len(bars)} bars; those of families stand in the table of {SPLIT}."]
    if others:
        body = [[bar.name, _found(bar), _wanted(bar), _met(bar)] for bar in others]
        lines += ["", *_table(["bar", f"`{last}`", "wanted", "met"], body)]
    return lines


def _successes(results: Results, split: str) -> list[str]:
    """Families down, rows across: success of each, then relative to that of the true targets, then the bars."""
    names, families = [row.name for row in results.rows], list(results.scores[split])
    groups = [(family, [family]) for family in families]
    hard = [family for family in UNDERSTANDING if family in families]
    groups += [("**understanding**", hard)] if len(hard) > 1 else []
    groups += [("**all**", families)] if len(families) > 1 else []
    edit = [row.name for row in results.rows if row.weights] if REFERENCE in names else []
    bars = family_bars(results) if split == SPLIT else {}
    body = []
    for title, members in groups:
        means = [results.mean(split, members, name, "success") for name in names]
        cells = [title, str(means[0].count), *map(_percent, means)]
        cells += [_percent(results.relative(split, members, name)) for name in edit]
        if bars:
            bar = bars.get(title)
            cells += [_wanted(bar), _met(bar)] if bar else ["", ""]
        body.append(cells)
    heads = ["family", "edits", *names, *(f"{name}, relative" for name in edit)]
    return _table([*heads, *(["wanted", "met"] if bars else [])], body)


def _measures(results: Results, split: str, absent: Sequence[str]) -> list[str]:
    """All measures of each row, over all families and outside the mask of things, then the last row's by family."""
    families, last = list(results.scores[split]), results.rows[-1].name
    shown = [measure for measure in MEASURES if measure not in (*absent, "success")]

    def line(title: str, members: Sequence[str], row: str) -> list[str]:
        means = {measure: results.mean(split, members, row, measure) for measure in shown}
        return [title, *(_plain(mean, 1 if measure.startswith("psnr") else 4) for measure, mean in means.items())]

    heads = [MEASURES[measure] for measure in shown]
    return [
        "All families:",
        "",
        *_table(["row", *heads], [line(row.name, families, row.name) for row in results.rows]),
        "",
        *_outside(results, split),
        f"`{last}` by family:",
        "",
        *_table(["family", *heads], [line(family, [family], last) for family in families]),
    ]


def _outside(results: Results, split: str) -> list[str]:
    found = [(row.name, results.outside(split, row.name)) for row in results.rows]
    told = [f"{name} {_plain(mean)}" for name, mean in found if mean.count]
    return ["L1 outside the mask on edits of things: " + "; ".join(told) + ".", ""] if told else []


def _leads(results: Results, split: str) -> list[str]:
    """How far the last row is ahead of the others: on the split of knowledge, and where one must understand."""
    families = list(results.scores[split])
    hard = [family for family in UNDERSTANDING if family in families]
    if not hard or len(results.rows) < 2:
        return []
    *others, last = (row.name for row in results.rows)
    leads = [f"{other} {_percent(results.lead(split, hard, last, other))}" for other in others]
    where = "here" if split == KNOWLEDGE else "on the understanding families"
    return ["", f"`{last}` succeeds oftener {where}, in points, than " + "; ".join(leads) + "."]


def _sessions(results: Results, split: str) -> list[str]:
    rows, seed = results.sessions[split], results.settings.bootstrap_seed
    turns = max(len(one.l1_outside) for one in rows.values())
    body = []
    for name, one in rows.items():
        means = [_plain(interval(values, seed)) for values in one.l1_outside]
        body.append([name, *means, _plain(results.growth(split, name), 2), _percent(results.last_scene(split, name))])
    heads = [f"L1 outside all masks after turn {turn + 1}" for turn in range(turns)]
    return _table(["row", *heads, "last turn over first", "success of the last scene"], body)


def _table(heads: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *body]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _percent(mean: Interval) -> str:
    return f"{100 * mean.mean:.0f} ({100 * mean.low:.0f} to {100 * mean.high:.0f})" if mean.count else "-"


def _plain(mean: Interval, digits: int = 4) -> str:
    if not mean.count:
        return "-"
    return f"{mean.mean:.{digits}f} ({mean.low:.{digits}f} to {mean.high:.{digits}f})"


def _found(bar: Bar) -> str:
    return _percent(bar.found) if bar.is_share else _plain(bar.found)


def _wanted(bar: Bar) -> str:
    figure = f"{100 * bar.wanted:.0f}" if bar.is_share else f"{bar.wanted:g}"
    return f"at most {figure}" if bar.is_limit else figure


def _met(bar: Bar) -> str:
    return "met" if bar.met else "not met"


def _side_by_side(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures of one size, uint8 [S, S, 3], enlarged as they are and set in a row."""
    scale = max(1, PICTURE // pictures[0].shape[0])
    large = [picture.repeat(scale, axis=0).repeat(scale, axis=1) for picture in pictures]
    gap = np.full((large[0].shape[0], GAP, 3), 255, np.uint8)
    return np.concatenate([part for picture in large for part in (picture, gap)][:-1], axis=1)
