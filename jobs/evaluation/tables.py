"""Tables of an evaluation: means with 95 % intervals, beside published figures and another editor's."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fireedit.jobs.evaluation.measuring import DECIMALS, HEADINGS, LOWER_IS_BETTER, Found, Values
from fireedit.jobs.evaluation.metrics import Interval, ratio
from fireedit.jobs.evaluation.published_values import PUBLISHED
from fireedit.jobs.evaluation.sets.evaluation_set import Comparison, EvaluationSet, SetError
from fireedit.platform import storage

ROWS, RESULT, REPORT = "measures.jsonl", "evaluation.json", "evaluation.md"
"""Files in the folder of an evaluation: values of each comparison, means, and the tables to read."""
DIGITS = 8
"""Decimals in JSON."""
LEGEND = "In brackets: 95 % bootstrap intervals over sessions or edits. ↓ lower and ↑ higher is better."


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Outcome of an evaluation."""

    editor: str
    weights: str
    settings: Mapping[str, Any]
    """Sampler settings and seed."""
    edits: EvaluationSet
    columns: Sequence[str]
    """Measures that were taken."""
    absent: Mapping[str, str]
    """Folders that the other measures of the set need, by measure."""
    measured: Found

    @property
    def tables(self) -> list[str]:
        return [*self.edits.totals, *dict.fromkeys(each.table for each in self.edits.comparisons)]

    def in_table(self, table: str) -> list[bool]:
        """Return whether each comparison counts in a table."""
        members = self.edits.totals.get(table, (table,))
        return [comparison.table in members for comparison in self.edits.comparisons]

    def means(self, table: str, values: Sequence[Values] | None = None) -> dict[str, Interval]:
        """Mean of each measure with its bootstrap interval, which draws sessions or edits.

        Args:
            values: in place of the evaluation's own; NaN where a measure does not apply.
        """
        return {column: self._mean(table, column, values or self.measured.values) for column in self.columns}

    def _mean(self, table: str, column: str, values: Sequence[Values]) -> Interval:
        sums, counts = dict[str, float](), dict[str, int]()
        counted = zip(self.edits.comparisons, values, self.in_table(table), strict=True)
        for comparison, measured, counts_here in counted:
            value = measured.get(column, math.nan)
            if counts_here and not math.isnan(value):
                sums[comparison.unit] = sums.get(comparison.unit, 0.0) + value
                counts[comparison.unit] = counts.get(comparison.unit, 0) + 1
        return ratio(list(sums.values()), [counts[unit] for unit in sums])


@dataclass(frozen=True)
class Baseline:
    """Other editor that an evaluation is compared with."""

    editor: str
    weights: str
    settings: Mapping[str, Any]
    values: list[Values]
    """Values of the same comparisons, empty where it has no picture."""

    def subtracted_from(self, values: Sequence[Values]) -> list[Values]:
        """Return the differences of another editor's values, pair by pair."""
        pairs = zip(values, self.values, strict=True)
        return [{name: value - other.get(name, math.nan) for name, value in own.items()} for own, other in pairs]


def save(evaluation: Evaluation, report: str, out: str, figures: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Write the three files of an evaluation; returns the means by table.

    Args:
        report: text of `REPORT`.
        figures: further entries of `RESULT`.
    """
    result = _result(evaluation) | dict(figures or {})
    remarks = evaluation.measured.remarks or [""] * len(evaluation.edits.comparisons)
    rows = zip(evaluation.edits.comparisons, evaluation.measured.values, remarks, strict=True)
    storage.write_bytes(storage.join(out, ROWS), "".join(_line(*each) for each in rows).encode())
    storage.write_bytes(storage.join(out, REPORT), report.encode())
    storage.write_bytes(storage.join(out, RESULT), (compact(result) + "\n").encode())
    return {
        table: {column: each["mean"] for column, each in means.items()} for table, means in result["tables"].items()
    }


def read_baseline(evaluation: Evaluation, folder: str) -> Baseline:
    """Read another editor's evaluation of the same edits; pictures that only one of both has are in no difference.

    Raises:
        OSError: the folder has no evaluation.
        SetError: it is of other edits, or has no picture of these.
    """
    result = json.loads(storage.read_bytes(storage.join(folder, RESULT)))
    if result["fingerprint"] != evaluation.edits.fingerprint:
        raise SetError(f"--baseline {folder}: found an evaluation of {result['set']} with other edits")
    lines = storage.read_bytes(storage.join(folder, ROWS)).splitlines()
    rows = {(row["table"], row["output"]): row["values"] for row in map(json.loads, lines)}
    keys = [(each.table, each.output) for each in evaluation.edits.comparisons]
    if not any(key in rows for key in keys):
        raise SetError(f"--baseline {folder}: its tables are others; write the same --set and --against for both")
    found = [rows.get(key, {}) for key in keys]
    values = [{name: math.nan if value is None else value for name, value in row.items()} for row in found]
    return Baseline(result["editor"], result["weights"], result["settings"], values)


def compact(value: Any, indent: str = "") -> str:
    """Format JSON with each value that contains no object on one line."""
    if isinstance(value, Mapping) and any(isinstance(item, Mapping) for item in value.values()):
        lines = [f"{indent} {json.dumps(name)}: {compact(item, indent + ' ')}" for name, item in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    return json.dumps(value, allow_nan=False)


def _line(comparison: Comparison, values: Values, remark: str) -> str:
    rounded = {name: _rounded(value) for name, value in values.items()}
    row = {"table": comparison.table, "output": comparison.output, "values": rounded}
    return json.dumps(row | ({"remark": remark} if remark else {})) + "\n"


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, DIGITS)


def _result(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "editor": evaluation.editor,
        "weights": evaluation.weights,
        "settings": dict(evaluation.settings),
        "set": evaluation.edits.name,
        "fingerprint": evaluation.edits.fingerprint,
        "partial": evaluation.edits.partial,
        "backbones": evaluation.measured.weights,
        "truncated_captions": len(evaluation.measured.truncated),
        "totals": list(evaluation.edits.totals),
        "tables": _intervals(evaluation),
    }


def _intervals(evaluation: Evaluation, values: Sequence[Values] | None = None) -> dict[str, Any]:
    """Mean and interval of each measure by table, for JSON; of other values than the evaluation's if they are given."""
    return {
        table: {
            column: {name: _rounded(value) for name, value in asdict(interval).items()}
            for column, interval in evaluation.means(table, values).items()
        }
        for table in evaluation.tables
    }


def markdown(evaluation: Evaluation, baselines: Sequence[Baseline]) -> str:
    """Format all tables and what they were made with."""
    rows: list[Evaluation | Baseline] = [evaluation, *baselines]
    names = row_names(rows)
    partial = ", part of the published set" if evaluation.edits.partial else ""
    blocks = [f"# {evaluation.editor} on {evaluation.edits.name}{partial}"]
    blocks += [f"{name}: {listed(each.settings)}." for name, each in zip(names, rows, strict=True) if each.settings]
    for table in evaluation.tables:
        blocks += [f"## {table}", _table(evaluation, table, names, baselines)]
    return "\n\n".join([*blocks, *_notes(evaluation)]) + "\n"


def row_names(rows: Sequence[Evaluation | Baseline]) -> list[str]:
    """Name rows by editor and weights; those that would have one name also by the settings that they do not share."""
    names = [f"{row.editor} `{row.weights}`" if row.weights else row.editor for row in rows]
    found = []
    for name, row in zip(names, rows, strict=True):
        others = [other.settings for other, its_name in zip(rows, names, strict=True) if its_name == name]
        own = {key: value for key, value in row.settings.items() if any(other.get(key) != value for other in others)}
        found.append(f"{name} ({listed(own)})" if own else name)
    return found


def listed(settings: Mapping[str, Any]) -> str:
    """List settings with their values."""
    return ", ".join(f"{key} {value!r}" for key, value in settings.items())


def compared(evaluation: Evaluation, baselines: Sequence[Baseline]) -> list[dict[str, Any]]:
    """Describe baselines for `RESULT`: what they are, their means and the paired differences to them, by table."""
    return [
        {
            "editor": baseline.editor,
            "weights": baseline.weights,
            "settings": dict(baseline.settings),
            "tables": _intervals(evaluation, baseline.values),
            "less": _intervals(evaluation, baseline.subtracted_from(evaluation.measured.values)),
        }
        for baseline in baselines
    ]


def _table(evaluation: Evaluation, table: str, names: Sequence[str], baselines: Sequence[Baseline]) -> str:
    columns = list(evaluation.columns)
    headings = [heading(column) for column in columns]
    count = sum(evaluation.in_table(table))
    lines = [["", *headings], ["---"] * (len(columns) + 1)]
    lines.append([f"{names[0]}, {count} pictures", *_cells(evaluation.means(table), columns)])
    for name, baseline in zip(names[1:], baselines, strict=True):
        differences = baseline.subtracted_from(evaluation.measured.values)
        lines.append([name, *_cells(evaluation.means(table, baseline.values), columns)])
        lines.append([f"less {name}, paired", *_cells(evaluation.means(table, differences), columns)])
    for system, values in PUBLISHED.get(evaluation.edits.name, {}).get(table, {}).items():
        lines.append([system, *(f"{values[column]:.4f}" if column in values else "" for column in columns)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def heading(column: str) -> str:
    """Name a measure, and say which way is better."""
    return f"{HEADINGS[column]} {'↓' if column in LOWER_IS_BETTER else '↑'}"


def _cells(means: Mapping[str, Interval], columns: Sequence[str]) -> list[str]:
    return [cell(means[column], column) for column in columns]


def cell(mean: Interval, column: str) -> str:
    """Format a mean of a measure with its interval; empty where there are no values."""
    if not mean.count:
        return ""
    middle, low, high = (f"{value:.{DECIMALS.get(column, 4)}f}" for value in (mean.mean, mean.low, mean.high))
    return f"{middle} ({low}..{high})"


def _notes(evaluation: Evaluation) -> list[str]:
    notes = [LEGEND]
    if weights := evaluation.measured.weights:
        notes.append(f"Backbones: {', '.join(f'{name} `{weight[:20]}`' for name, weight in sorted(weights.items()))}.")
    if evaluation.measured.truncated:
        notes.append(f"{len(evaluation.measured.truncated)} captions were longer than CLIP reads, and cut.")
    if evaluation.absent:
        missing = ", ".join(f"{HEADINGS[column]} ({folder})" for column, folder in evaluation.absent.items())
        notes.append(f"Not measured, for want of the backbone's folder: {missing}.")
    return notes
