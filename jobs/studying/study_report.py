"""Report of a study: report.json, report.md and a chart of shares."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from fireedit.jobs.studying.orders import ChiSquare
from fireedit.jobs.studying.preferences import Preferences
from fireedit.jobs.studying.study_folder import Study

JSON, MARKDOWN, CHART = "report.json", "report.md", "shares.png"
DIGITS = 6
"""Decimals in JSON."""
FILL = "#e08a5c"


def save_report(study: Study, found: Preferences, out: Path) -> dict[str, Any]:
    """Write the three files; returns the content of report.json."""
    out.mkdir(parents=True, exist_ok=True)
    report = as_json(study, found)
    (out / JSON).write_text(json.dumps(report, indent=1) + "\n")
    (out / MARKDOWN).write_text(markdown(study, found))
    chart(study, found).savefig(out / CHART, dpi=120)
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


def chart(study: Study, found: Preferences) -> Figure:
    """Draw the shares in percent as bars with their intervals, the largest at the top."""
    ranked = ranking(found)[::-1]
    shares = [found.shares[row] for row in ranked]
    means = [100 * share.mean for share in shares]
    below = [100 * max(0.0, share.mean - share.low) for share in shares]  # rounding may leave -1e-17
    above = [100 * max(0.0, share.high - share.mean) for share in shares]
    figure = Figure(figsize=(8, 0.6 * len(ranked) + 1), layout="constrained")
    axes = figure.add_subplot()
    bars = axes.barh([study.methods[row] for row in ranked], means, xerr=[below, above], capsize=4, color=FILL)
    axes.bar_label(bars, fmt="%.1f %%", padding=4)
    axes.set_xlim(0, 105)
    axes.set_xlabel("share of votes, %")
    return figure


def _chi_square(test: ChiSquare) -> str:
    return f"chi-square {test.statistic:.2f} with {test.freedom} degrees of freedom, p = {test.p:.3f}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
