"""Scores of a benchmark, and their means with intervals."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from fireedit.jobs.evaluation.cases import EditCase
from fireedit.jobs.evaluation.judges import MEASURES, Score
from fireedit.jobs.evaluation.metrics import Interval, interval, ratio
from fireedit.platform.scenes.families import LOCAL

REFERENCE = "target"
"""Row that relative success divides by: the judge's pass rate on the true targets of the same cases. The target of a
no-op is its unchanged source."""
UNDERSTANDING = ("left_right", "relative_size", "color", "ordinal", "multiple", "reasoning")
"""Families whose instructions do not name the object directly."""
DIGITS = 4
"""Decimals in JSON: as many as agree between machines."""


@dataclass(frozen=True)
class BenchmarkConfig:
    """Cases of a benchmark."""

    splits: list[str]
    families: list[str]
    edits: int
    """Edits of each family."""
    sessions: int
    """Sessions of each split."""
    side: int
    """Side of the pictures, pixels."""
    bootstrap_seed: int = 0


@dataclass(frozen=True)
class Row:
    """Editor as the tables describe it."""

    name: str
    weights: str
    """Fingerprint; empty for an editor without weights."""
    regions: str
    """Region source of the VLM; empty without a VLM."""
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
    """Outcome of a benchmark; scores are in the order of the cases."""

    config: BenchmarkConfig
    rows: list[Row]
    judges: dict[str, str]
    """Fingerprint of each judge's weights."""
    scores: dict[str, dict[str, dict[str, list[Score]]]] = field(default_factory=dict)
    """Scores by split, family and row."""
    sessions: dict[str, dict[str, SessionScores]] = field(default_factory=dict)
    """Session scores by split and row."""

    @property
    def key(self) -> str:
        """Hash that names the folder of the verdicts."""
        # The config's class was called Settings when results/ was made; the hash stays what it was.
        text = repr((self.config, self.rows, self.judges)).replace(BenchmarkConfig.__name__, "Settings", 1)
        return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()

    def values(self, split: str, families: Sequence[str], row: str, measure: str) -> list[float]:
        """Concatenate a measure's values over families; those of absent judges are left out."""
        scores = [score for family in families for score in self.scores[split].get(family, {}).get(row, [])]
        return [float(score.measures[measure]) for score in scores if measure in score.measures]

    def mean(self, split: str, families: Sequence[str], row: str, measure: str = "success") -> Interval:
        return interval(self.values(split, families, row, measure), self.config.bootstrap_seed)

    def relative(self, split: str, families: Sequence[str], row: str) -> Interval:
        """Divide a row's success by that of the true targets of the same cases."""
        successes, references = (self.values(split, families, name, "success") for name in (row, REFERENCE))
        return ratio(successes, references, self.config.bootstrap_seed)

    def lead(self, split: str, families: Sequence[str], row: str, other: str) -> Interval:
        """Mean difference of the successes of `row` and `other`, paired by case."""
        pairs = zip(*(self.values(split, families, name, "success") for name in (row, other)), strict=True)
        return interval([success - baseline for success, baseline in pairs], self.config.bootstrap_seed)

    def outside(self, split: str, row: str) -> Interval:
        """L1 outside the mask on edits of objects."""
        return self.mean(split, LOCAL, row, "l1_outside")

    def growth(self, split: str, row: str) -> Interval:
        """Ratio of the L1 outside all masks after the last turn of a session to that after the first."""
        turns = self.sessions[split][row].l1_outside
        return ratio(turns[-1], turns[0], self.config.bootstrap_seed)

    def last_scene(self, split: str, row: str) -> Interval:
        """Success rate of the last scenes of sessions."""
        return interval(list(map(float, self.sessions[split][row].success)), self.config.bootstrap_seed)

    def as_json(self) -> dict[str, Any]:
        """Means with intervals as [mean, low, high]; contains nothing that depends on the machine."""
        splits = {
            split: {
                family: {row: self._family_json(split, family, row) for row in rows}
                for family, rows in by_family.items()
            }
            for split, by_family in self.scores.items()
        }
        outside = {
            split: {row.name: _rounded(self.outside(split, row.name)) for row in self.rows} for split in self.scores
        }
        sessions = {
            split: {row: self._session_json(split, row) for row in rows} for split, rows in self.sessions.items()
        }
        rows = [asdict(row) for row in self.rows]
        head = {"settings": asdict(self.config), "rows": rows, "judges": self.judges}
        return head | {"splits": splits, "l1_outside": outside, "sessions": sessions}

    def _family_json(self, split: str, family: str, row: str) -> dict[str, Any]:
        means = {measure: self.mean(split, [family], row, measure) for measure in MEASURES}
        return {
            "edits": len(self.scores[split][family][row]),
            "relative": _rounded(self.relative(split, [family], row)),
            **{measure: _rounded(mean) for measure, mean in means.items() if mean.count},
        }

    def _session_json(self, split: str, row: str) -> dict[str, Any]:
        sessions, seed = self.sessions[split][row], self.config.bootstrap_seed
        return {
            "sessions": len(sessions.success),
            "l1_outside": [_rounded(interval(values, seed)) for values in sessions.l1_outside],
            "last_over_first": _rounded(self.growth(split, row)),
            "success": _rounded(self.last_scene(split, row)),
        }


def score_lines(split: str, family: str, row: str, cases: Sequence[EditCase], scores: Sequence[Score]) -> str:
    """Format each edit's instruction, verdict and measures as a line of JSON; unknown measures are null."""
    lines = []
    for case, score in zip(cases, scores, strict=True):
        measures = {name: _known(score.measures.get(name)) for name in MEASURES if name != "success"}
        record = {"split": split, "family": family, "row": row, "number": case.number, "seed": case.seed}
        record |= {"instruction": case.instruction, "success": score.success, "wrong": score.wrong} | measures
        lines.append(json.dumps(record) + "\n")
    return "".join(lines)


def compact(value: Any, indent: str = "") -> str:
    """Format JSON with each value that contains no object on one line."""
    if isinstance(value, dict) and any(map(_holds_object, value.values())):
        lines = [f"{indent} {json.dumps(name)}: {compact(item, indent + ' ')}" for name, item in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    if isinstance(value, list) and any(map(_holds_object, value)):
        return "[\n" + ",\n".join(f"{indent} {compact(item, indent + ' ')}" for item in value) + f"\n{indent}]"
    return json.dumps(value, allow_nan=False)


def _holds_object(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(map(_holds_object, value)))


def _rounded(mean: Interval) -> list[float] | None:
    """Round [mean, low, high] to `DIGITS`; None if nothing was measured."""
    return [round(value, DIGITS) for value in (mean.mean, mean.low, mean.high)] if mean.count else None


def _known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else round(value, DIGITS)
