"""Figures of a benchmark beside their bars."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fireedit.platform.console import say


@dataclass(frozen=True)
class Figure:
    """One measured number; without a bar it is only reported."""

    name: str
    value: float
    unit: str = ""
    most: float | None = None
    """Bar: the largest value that is good enough."""
    least: float | None = None
    """Bar: the smallest value that is good enough."""

    @property
    def met(self) -> bool:
        above = self.most is not None and not self.value <= self.most  # NaN meets no bar
        below = self.least is not None and not self.value >= self.least
        return not (above or below)

    @property
    def bar(self) -> str:
        """Bar in words, empty without one."""
        words = {"at most": self.most, "at least": self.least}
        return " and ".join(f"{word} {value:g}" for word, value in words.items() if value is not None)

    def line(self) -> str:
        """Format for a person."""
        verdict = f"  bar: {self.bar}  {'met' if self.met else 'MISSED'}" if self.bar else ""
        return f"  {self.name:58s} {self.value:9.3f} {self.unit:4s}{verdict}"


def report(sections: Mapping[str, Sequence[Figure]]) -> dict[str, Any]:
    """Build the JSON report: figures by section, and the names of the bars that were missed."""
    missed = [f"{name}: {figure.name}" for name, figures in sections.items() for figure in figures if not figure.met]
    return {
        "sections": {name: [_row(each) for each in figures] for name, figures in sections.items()},
        "missed": missed,
    }


def show_section(name: str, figures: Sequence[Figure]) -> None:
    """Print the figures of a section."""
    say(name)
    for figure in figures:
        say(figure.line())


def percentile(values: Sequence[float], percent: int) -> float:
    """Return a percentile; NaN of nothing."""
    if len(values) < 2:
        return values[0] if values else float("nan")
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def median(values: Sequence[float]) -> float:
    """Return the median; NaN of nothing."""
    return statistics.median(values) if values else float("nan")


def _row(figure: Figure) -> dict[str, Any]:
    value = round(figure.value, 4) if figure.value == figure.value else None  # JSON has no NaN
    bar = {"bar": figure.bar, "met": figure.met} if figure.bar else {}
    return {"name": figure.name, "value": value, "unit": figure.unit} | bar
