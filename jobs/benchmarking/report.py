"""A benchmark for people: tables of successes and measures by split, sheets of pictures that nobody picked."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from fireedit.jobs.benchmarking.cases import Case
from fireedit.jobs.benchmarking.judges import MEASURES, Judges, Score
from fireedit.jobs.benchmarking.results import UNDERSTANDING, Results, Turns
from fireedit.models.metrics import Interval, interval
from fireedit.platform.sheet import Panel, sheet

SHOWN = 8
"""Cases of a sheet: the first ones."""
GALLERY = 2
"""Cases of each family in the gallery: the first ones."""
PICTURE = 160
"""Side of a picture on a sheet, pixels."""
GAP = 4

_HOW = """\
An edit is a success if the scene parser reads in the edited picture what was asked for *and* everything else as it was:
names, places, sizes and colours of all objects, no object too many, background, style, mirror. Row `target` shows how
often the parser itself is right, row `copy` what doing nothing earns. Percent with 95 % bootstrap intervals.
"""


def markdown(results: Results, judges: Judges, command: str) -> str:
    """The whole report."""
    absent = judges.absent
    asked, rows = results.settings, results.rows
    lines = ["# Benchmark", "", _HOW]
    lines += [f"Made by `{command}`: {asked.edits} edits a family, pictures of {asked.side} px.", ""]
    lines += _table(["row", "weights", "regions"], [[row.name, row.weights or "-", row.regions or "-"] for row in rows])
    lines += ["", "Judges: " + ", ".join(f"{name} `{weights}`" for name, weights in results.judges.items()) + "."]
    lines += [judges.known]
    if absent:
        columns = ", ".join(MEASURES[measure] for measure in absent)
        lines += ["", f"Left out, for want of their judges: {columns}."]
    for split in results.scores:
        lines += ["", f"## {split}", "", *_successes(results, split)]
        lines += ["", *_measures(results, split, absent), *_leads(results, split)]
        if split in results.sessions:
            lines += ["", "Sessions:", "", *_sessions(results.sessions[split], results.settings.bootstrap_seed)]
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


def gallery(shown: dict[str, list[tuple[Case, np.ndarray]]]) -> Image.Image:
    """Source, edited and target of some cases of each family, a family below another."""
    panels = [
        Panel(image=_side_by_side([case.source, picture, case.target]), title=f"{family}: {case.instruction}")
        for family, edited in shown.items()
        for case, picture in edited
    ]
    return sheet(panels, columns=GALLERY, height=PICTURE)


def _successes(results: Results, split: str) -> list[str]:
    """Rows down, families across would be too wide: families down."""
    names, families = [row.name for row in results.rows], list(results.scores[split])
    groups = [(family, [family]) for family in families]
    hard = [family for family in UNDERSTANDING if family in families]
    groups += [("**understanding**", hard)] if len(hard) > 1 else []
    body = []
    for title, members in groups:
        means = [results.mean(split, members, name, "success") for name in names]
        body.append([title, str(means[0].count), *(_percent(mean) for mean in means)])
    return _table(["family", "edits", *names], body)


def _measures(results: Results, split: str, absent: Sequence[str]) -> list[str]:
    """All measures of each row, over all families, then those of the last row by family."""
    families, last = list(results.scores[split]), results.rows[-1].name
    shown = [measure for measure in MEASURES if measure not in (*absent, "success")]

    def line(title: str, members: Sequence[str], row: str) -> list[str]:
        return [title, *(_plain(results.mean(split, members, row, measure), measure) for measure in shown)]

    heads = [MEASURES[measure] for measure in shown]
    return [
        "All families:",
        "",
        *_table(["row", *heads], [line(row.name, families, row.name) for row in results.rows]),
        "",
        f"`{last}` by family:",
        "",
        *_table(["family", *heads], [line(family, [family], last) for family in families]),
    ]


def _leads(results: Results, split: str) -> list[str]:
    """How far the last row is ahead of the others where instructions must be understood."""
    hard = [family for family in UNDERSTANDING if family in results.scores[split]]
    if not hard or len(results.rows) < 2:
        return []
    *others, last = (row.name for row in results.rows)
    leads = [f"{other} {_percent(results.lead(split, hard, last, other))}" for other in others]
    return ["", f"`{last}` succeeds oftener on the understanding families, in points, than " + "; ".join(leads) + "."]


def _sessions(rows: dict[str, Turns], seed: int) -> list[str]:
    turns = max(len(one.l1_outside) for one in rows.values())
    body = []
    for name, one in rows.items():
        means = [interval(values, seed) for values in one.l1_outside]
        success = interval([float(right) for right in one.success], seed)
        body.append([name, *(_plain(mean, "l1") for mean in means), _percent(success)])
    heads = [f"L1 outside all masks after turn {turn + 1}" for turn in range(turns)]
    return _table(["row", *heads, "success of the last scene"], body)


def _table(heads: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *body]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _percent(mean: Interval) -> str:
    return f"{100 * mean.mean:.0f} ({100 * mean.low:.0f} to {100 * mean.high:.0f})" if mean.count else "-"


def _plain(mean: Interval, measure: str) -> str:
    digits = 1 if measure.startswith("psnr") else 4
    return f"{mean.mean:.{digits}f} ({mean.low:.{digits}f} to {mean.high:.{digits}f})" if mean.count else "-"


def _side_by_side(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures of one size, uint8 [S, S, 3], enlarged as they are and set in a row."""
    scale = max(1, PICTURE // pictures[0].shape[0])
    large = [picture.repeat(scale, axis=0).repeat(scale, axis=1) for picture in pictures]
    gap = np.full((large[0].shape[0], GAP, 3), 255, np.uint8)
    return np.concatenate([part for picture in large for part in (picture, gap)][:-1], axis=1)
