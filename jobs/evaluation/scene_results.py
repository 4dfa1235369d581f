"""Scores of editors on drawn scenes, by split and family, and their means with intervals."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fireedit.jobs.evaluation.measuring import Values
from fireedit.jobs.evaluation.metrics import Interval, interval, ratio
from fireedit.jobs.evaluation.sets.evaluation_set import Comparison
from fireedit.jobs.evaluation.sets.scenes import READER, SESSION
from fireedit.platform.scenes.families import LOCAL

REFERENCE = "target"
"""Row that relative success divides by: the judge's pass rate on the true targets of the same cases. The target of a
no-op is its unchanged source."""
UNDERSTANDING = ("left_right", "relative_size", "color", "ordinal", "multiple", "reasoning")
"""Families whose instructions do not name the object directly."""


@dataclass(frozen=True)
class Row:
    """Editor as the tables describe it."""

    name: str
    weights: str = ""
    """Fingerprint; empty for an editor without weights."""
    painting: str = ""
    """Steps and guidance; empty for an editor that does not sample."""


@dataclass(frozen=True)
class SessionScores:
    """Scores of sessions, each turn of which edits the picture that the editor returned in the turn before."""

    l1_outside: list[list[float]]
    """L1 to the first source outside all of a session's masks, by turn and session; NaN if the masks cover all."""
    success: list[bool]
    """Success of the last scene of each session."""


@dataclass
class Results:
    """Scores of all rows; those of one family are in the order of its cases."""

    rows: list[Row]
    judges: Mapping[str, str]
    """Fingerprint of each judge's weights."""
    scores: dict[str, dict[str, dict[str, list[Mapping[str, float]]]]] = field(default_factory=dict)
    """Measures of each edit by split, family and row, without those that do not apply."""
    sessions: dict[str, dict[str, SessionScores]] = field(default_factory=dict)
    """Session scores by split and row."""

    def values(self, split: str, families: Sequence[str], row: str, measure: str) -> list[float]:
        """Concatenate a measure's values over families; those of absent judges are left out."""
        scores = [score for family in families for score in self.scores[split].get(family, {}).get(row, [])]
        return [float(score[measure]) for score in scores if measure in score]

    def mean(self, split: str, families: Sequence[str], row: str, measure: str = "success") -> Interval:
        return interval(self.values(split, families, row, measure))

    def relative(self, split: str, families: Sequence[str], row: str) -> Interval:
        """Divide a row's success by that of the true targets of the same cases."""
        successes, references = (self.values(split, families, name, "success") for name in (row, REFERENCE))
        return ratio(successes, references)

    def lead(self, split: str, families: Sequence[str], row: str, other: str) -> Interval:
        """Mean difference of the successes of `row` and `other`, paired by case."""
        pairs = zip(*(self.values(split, families, name, "success") for name in (row, other)), strict=True)
        return interval([success - baseline for success, baseline in pairs])

    def outside(self, split: str, row: str) -> Interval:
        """L1 outside the mask on edits of objects."""
        return self.mean(split, LOCAL, row, "l1_outside")

    def growth(self, split: str, row: str) -> Interval:
        """Ratio of the L1 outside all masks after the last turn of a session to that after the first."""
        turns = self.sessions[split][row].l1_outside
        return ratio(turns[-1], turns[0])

    def last_scene(self, split: str, row: str) -> Interval:
        """Success rate of the last scenes of sessions."""
        return interval(list(map(float, self.sessions[split][row].success)))

    def add(self, row: str, comparisons: Sequence[Comparison], values: Sequence[Values]) -> None:
        """Add what was measured of a row's edits and sessions."""
        for comparison, measured in zip(comparisons, values, strict=True):
            split, family = comparison.table.split("/")
            if family.startswith(SESSION):
                self._add_turn(split, row, int(family.removeprefix(SESSION)) - 1, measured)
            else:
                known = {name: value for name, value in measured.items() if not math.isnan(value)}
                self.scores.setdefault(split, {}).setdefault(family, {}).setdefault(row, []).append(known)

    def add_reader(self, comparisons: Sequence[Comparison], values: Sequence[Values]) -> None:
        """Add the row `REFERENCE`: the scene reader's own success."""
        pairs = zip(comparisons, values, strict=True)
        edits = [(each, measured[READER]) for each, measured in pairs if not math.isnan(measured[READER])]
        self.add(REFERENCE, [each for each, _ in edits], [{"success": value} for _, value in edits])

    def _add_turn(self, split: str, row: str, turn: int, measured: Values) -> None:
        scores = self.sessions.setdefault(split, {}).setdefault(row, SessionScores([], []))
        if turn == len(scores.l1_outside):
            scores.l1_outside.append([])
        scores.l1_outside[turn].append(measured["l1_outside"])
        if not math.isnan(measured["success"]):
            scores.success.append(bool(measured["success"]))
