"""Report of a study: report.json, report.md and a chart of shares."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from fireedit.jobs.studying.orders import ChiSquare
from fireedit.jobs.studying.preferences import Preferences
from fireedit.jobs.studying.study_folder import Study

JSON, MARKDOWN, CHART = "report.json", "report.md", "shares.png"
DIGITS = 6
"""Decimals in JSON."""
BAR, GAP, MARGIN, NAMES, PLOT = 36, 16, 24, 240, 720
"""Pixels of the chart: height of a bar, space between bars and around them, widths of names and of 100 %."""
GROUND, INK, GRID, FILL = "#ffffff", "#19191c", "#d3d3d8", "#e08a5c"


def save_report(study: Study, found: Preferences, out: Path) -> dict[str, Any]:
    """Write the three files; returns the content of report.json."""
    out.mkdir(parents=True, exist_ok=True)
    report = as_json(study, found)
    (out / JSON).write_text(json.dumps(report, indent=1) + "\n")
    (out / MARKDOWN).write_text(markdown(study, found))
    chart(study, found).save(out / CHART, optimize=True)
    return report


def as_json(study: Study, found: Preferences) -> dict[str, Any]:
    """Collect all figures by method."""
    names = study.methods
    methods = {
        name: {
            "weights": study.weights[row],
            "votes": found.votes[row],
            "share": round(found.shares[row].mean, DIGITS),
            "low": round(found.shares[row].low, DIGITS),
            "high": round(found.shares[row].high, DIGITS),
            "strength": round(float(found.strengths[row]), DIGITS),
            "wins": {other: int(found.wins[row, column]) for column, other in enumerate(names) if other != name},
        }
        for row, name in enumerate(names)
    }
    return {
        "set": study.set,
        "fingerprint": study.fingerprint,
        "questions": len(study.questions),
        "participants": found.participants,
        "complete": found.complete,
        "votes": sum(found.votes),
        "median_seconds": round(found.median_seconds, 2),
        "places_shown": asdict(found.shown),
        "places_chosen": asdict(found.chosen),
        "methods": methods,
    }


def markdown(study: Study, found: Preferences) -> str:
    """Format the report for people."""
    total, ranked = sum(found.votes), ranking(found)
    head = ["method", "votes", "share", "95 % interval", "Bradley-Terry"]
    rows = [
        [
            study.methods[row],
            str(found.votes[row]),
            f"{found.shares[row].mean:.2%}",
            f"{found.shares[row].low:.2%} to {found.shares[row].high:.2%}",
            f"{found.strengths[row]:.4f}",
        ]
        for row in ranked
    ]
    pairs = [
        [study.methods[row], *("" if row == column else str(found.wins[row, column]) for column in ranked)]
        for row in ranked
    ]
    blocks = [
        f"# Preference study on {study.set}",
        f"{total} votes of {found.participants} participants, {found.complete} of whom answered all "
        f"{len(study.questions)} questions; half of the answers took less than {found.median_seconds:.1f} s.",
        _table(head, rows),
        f"![Shares of votes]({CHART})",
        "Intervals are bootstrap intervals that draw participants, with all their votes.",
        "## Pairs",
        "Times that the method of the row was chosen where that of the column was shown too: the one answer to a "
        "question counts as chosen over each of the others. Where all methods are shown in all questions, "
        "Bradley-Terry strengths are therefore the shares.",
        _table(["chosen, over", *(study.methods[row] for row in ranked)], pairs),
        "## Order",
        f"- Methods by place, as shown: {_chi_square(found.shown)}.",
        f"- Places, as chosen: {_chi_square(found.chosen)}.",
    ]
    return "\n\n".join(blocks[:-2]) + "\n\n" + "\n".join(blocks[-2:]) + "\n"


def ranking(found: Preferences) -> list[int]:
    """Indices of methods, the one with most votes first."""
    return sorted(range(len(found.votes)), key=lambda row: -found.votes[row])


def chart(study: Study, found: Preferences) -> Image.Image:
    """Draw the shares as bars with their intervals."""
    ranked, font = ranking(found), ImageFont.load_default(size=16)
    height = 2 * MARGIN + len(ranked) * (BAR + GAP) + 24
    image = Image.new("RGB", (2 * MARGIN + NAMES + PLOT + 40, height), GROUND)
    draw, left, bottom = ImageDraw.Draw(image), MARGIN + NAMES, height - MARGIN - 24
    for percent in range(0, 101, 20):
        x = left + PLOT * percent // 100
        draw.line((x, MARGIN, x, bottom), fill=GRID)
        draw.text((x, bottom + 6), f"{percent} %", fill=INK, font=font, anchor="ma")
    for place, row in enumerate(ranked):
        share, top = found.shares[row], MARGIN + place * (BAR + GAP) + GAP // 2
        middle = top + BAR // 2
        ends = [left + PLOT * value for value in (share.low, share.mean, share.high)]
        draw.text((left - 12, middle), study.methods[row][:26], fill=INK, font=font, anchor="rm")
        draw.rectangle((left, top, ends[1], top + BAR), fill=FILL)
        draw.line((ends[0], middle, ends[2], middle), fill=INK, width=2)
        for end in (ends[0], ends[2]):
            draw.line((end, middle - 6, end, middle + 6), fill=INK, width=2)
        draw.text((ends[2] + 8, middle), f"{share.mean:.1%}", fill=INK, font=font, anchor="lm")
    return image


def _chi_square(test: ChiSquare) -> str:
    return f"chi-square {test.statistic:.2f} with {test.freedom} degrees of freedom, p = {test.p:.3f}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
