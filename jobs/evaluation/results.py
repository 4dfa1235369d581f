"""Findings of a benchmark, and their means with intervals."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from fireedit.jobs.evaluation.cases import Case
from fireedit.jobs.evaluation.judges import MEASURES, Score
from fireedit.jobs.evaluation.metrics import Interval, interval, ratio
from fireedit.platform.scenes.families import LOCAL

REFERENCE = "target"
"""The row that others are measured by: how often the judge passes the true targets of the same cases. A no-op's target
is its untouched source."""
UNDERSTANDING = ("left_right", "relative_size", "color", "ordinal", "multiple", "reasoning")
"""Families whose instructions have to be worked out."""
DIGITS = 4
"""Behind the point, in JSON."""


@dataclass(frozen=True)
class Settings:
    """The request."""

    splits: list[str]
    families: list[str]
    edits: int
    """Of a family."""
    sessions: int
    side: int
    """Of the pictures, pixels."""
    bootstrap_seed: int = 0


@dataclass(frozen=True)
class Row:
    """One editor, as a table names it."""

    name: str
    weights: str
    """Hash; empty if it has none."""
    regions: str
    """Where those that its VLM sees come from; empty if it has no VLM."""
    painting: str = ""
    """Steps and guidance; empty if it paints nothing."""


@dataclass(frozen=True)
class Turns:
    """Outcome of sessions of several turns, each on the picture that the editor had made before."""

    l1_outside: list[list[float]]
    """By turn, of each session: outside all of its masks, from its first source. NaN where they cover everything."""
    success: list[bool]
    """Of the last scene."""


@dataclass
class Results:
    """Scores by split, family and row, in the order of the cases."""

    settings: Settings
    rows: list[Row]
    judges: dict[str, str]
    """A hash of each judge's weights."""
    scores: dict[str, dict[str, dict[str, list[Score]]]] = field(default_factory=dict)
    sessions: dict[str, dict[str, Turns]] = field(default_factory=dict)
    """By split and row."""

    def add(self, split: str, family: str, row: str, scores: list[Score]) -> None:
        self.scores.setdefault(split, {}).setdefault(family, {})[row] = scores

    def measured(self, split: str, families: Sequence[str], row: str, measure: str) -> list[float]:
        """All values of a measure in these families, one after the other; those of absent judges are left out."""
        scores = [score for family in families for score in self.scores[split].get(family, {}).get(row, [])]
        values = [getattr(score, measure) for score in scores]
        return [float(value) for value in values if value is not None]

    def mean(self, split: str, families: Sequence[str], row: str, measure: str) -> Interval:
        return interval(self.measured(split, families, row, measure), self.settings.bootstrap_seed)

    def relative(self, split: str, families: Sequence[str], row: str) -> Interval:
        """A row's success over that of the true targets of the same cases."""
        ours, theirs = (self.measured(split, families, name, "success") for name in (row, REFERENCE))
        return ratio(ours, theirs, self.settings.bootstrap_seed)

    def lead(self, split: str, families: Sequence[str], row: str, other: str) -> Interval:
        """How much oftener `row` succeeds than `other`, case by case."""
        ours, theirs = (self.measured(split, families, name, "success") for name in (row, other))
        return interval([one - two for one, two in zip(ours, theirs, strict=True)], self.settings.bootstrap_seed)

    def outside(self, split: str, row: str) -> Interval:
        """L1 outside the mask on edits of things."""
        return self.mean(split, LOCAL, row, "l1_outside")

    def growth(self, split: str, row: str) -> Interval:
        """L1 outside all masks after the last turn of a session over that after the first."""
        turns = self.sessions[split][row].l1_outside
        return ratio(turns[-1], turns[0], self.settings.bootstrap_seed)

    def last_scene(self, split: str, row: str) -> Interval:
        """Success of the last scenes of sessions."""
        success = self.sessions[split][row].success
        return interval([float(one) for one in success], self.settings.bootstrap_seed)

    def as_json(self) -> dict[str, Any]:
        """Means with intervals, [mean, low, high]; nothing that depends on the machine."""
        return {
            "settings": asdict(self.settings),
            "rows": [asdict(row) for row in self.rows],
            "judges": self.judges,
            "splits": {
                split: {family: {row: self._row(split, family, row) for row in rows} for family, rows in found.items()}
                for split, found in self.scores.items()
            },
            "l1_outside": {
                split: {row.name: _told(self.outside(split, row.name)) for row in self.rows} for split in self.scores
            },
            "sessions": {
                split: {row: self._turns(split, row) for row in rows} for split, rows in self.sessions.items()
            },
        }

    def _row(self, split: str, family: str, row: str) -> dict[str, Any]:
        means = {measure: self.mean(split, [family], row, measure) for measure in MEASURES}
        return {
            "edits": len(self.scores[split][family][row]),
            "relative": _told(self.relative(split, [family], row)),
            **{measure: _told(mean) for measure, mean in means.items() if mean.count},
        }

    def _turns(self, split: str, row: str) -> dict[str, Any]:
        turns, seed = self.sessions[split][row], self.settings.bootstrap_seed
        return {
            "sessions": len(turns.success),
            "l1_outside": [_told(interval(values, seed)) for values in turns.l1_outside],
            "last_over_first": _told(self.growth(split, row)),
            "success": _told(self.last_scene(split, row)),
        }


def score_lines(split: str, family: str, row: str, cases: Sequence[Case], scores: Sequence[Score]) -> str:
    """One JSON object a line for each edit: what was asked, the verdict, the measures; None where there is none."""
    lines = []
    for case, score in zip(cases, scores, strict=True):
        measures = {name: _known(getattr(score, name)) for name in MEASURES if name != "success"}
        told = {"split": split, "family": family, "row": row, "number": case.number, "seed": case.seed}
        told |= {"instruction": case.instruction, "success": score.success, "wrong": score.wrong} | measures
        lines.append(json.dumps(told) + "\n")
    return "".join(lines)


def compact(value: Any, indent: str = "") -> str:
    """JSON in which everything that holds no object stands on one line."""
    if isinstance(value, dict) and any(_holds_object(one) for one in value.values()):
        lines = [f"{indent} {json.dumps(name)}: {compact(one, indent + ' ')}" for name, one in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    if isinstance(value, list) and any(_holds_object(one) for one in value):
        return "[\n" + ",\n".join(f"{indent} {compact(one, indent + ' ')}" for one in value) + f"\n{indent}]"
    return json.dumps(value, allow_nan=False)


def _holds_object(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(map(_holds_object, value)))


def _told(mean: Interval) -> list[float] | None:
    """To as many digits as are the same on every machine; None if nothing was measured."""
    return [round(value, DIGITS) for value in (mean.mean, mean.low, mean.high)] if mean.count else None


def _known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else round(value, DIGITS)
