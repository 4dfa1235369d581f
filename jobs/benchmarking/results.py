"""All that a benchmark found, and its means with their intervals."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from fireedit.jobs.benchmarking.judges import MEASURES, Score
from fireedit.models.metrics import Interval, interval

UNDERSTANDING = ("left_right", "relative_size", "color", "multiple", "reasoning")
"""Families whose instructions have to be worked out."""
DIGITS = 4
"""Behind the point, in JSON."""


@dataclass(frozen=True)
class Settings:
    """What was asked for."""

    splits: list[str]
    families: list[str]
    edits: int
    """Of a family."""
    sessions: int
    steps: int
    guidance_scale: float
    image_guidance_scale: float
    keep_below: float
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


@dataclass(frozen=True)
class Turns:
    """What became of sessions of several turns, each on the picture that the editor had made before."""

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

    def lead(self, split: str, families: Sequence[str], row: str, other: str) -> Interval:
        """How much oftener `row` succeeds than `other`, case by case."""
        ours, theirs = (self.measured(split, families, name, "success") for name in (row, other))
        return interval([one - two for one, two in zip(ours, theirs, strict=True)], self.settings.bootstrap_seed)

    def as_json(self) -> dict[str, Any]:
        """Means, intervals and counts; nothing that depends on the machine."""
        return {
            "settings": asdict(self.settings),
            "rows": [asdict(row) for row in self.rows],
            "judges": self.judges,
            "splits": {split: self._split(split) for split in self.scores},
            "sessions": {
                split: {row: _turns(turns, self.settings.bootstrap_seed) for row, turns in rows.items()}
                for split, rows in self.sessions.items()
            },
        }

    def _split(self, split: str) -> dict[str, Any]:
        return {
            family: {
                row: {
                    measure: _told(mean)
                    for measure in MEASURES
                    if (mean := self.mean(split, [family], row, measure)).count
                }
                for row in rows
            }
            for family, rows in self.scores[split].items()
        }


def _turns(turns: Turns, seed: int) -> dict[str, Any]:
    means = [interval(values, seed) for values in turns.l1_outside]
    return {
        "l1_outside": [_told(mean) if mean.count else None for mean in means],
        "success": _told(interval([float(one) for one in turns.success], seed)),
    }


def _told(mean: Interval) -> dict[str, float]:
    """To as many digits as are the same on every machine."""
    return {name: round(value, DIGITS) for name, value in asdict(mean).items()}
