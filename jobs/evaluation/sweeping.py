"""Sweeps: an evaluation for each value of a setting or folder of weights; tables, a plot and a grid of pictures."""

import csv
import dataclasses
import hashlib
import io
import json
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fireedit.jobs.evaluation.comparing import compared_edits, edit_sheet
from fireedit.jobs.evaluation.evaluations import SET, EvaluationConfig, evaluate, open_edits
from fireedit.jobs.evaluation.measuring import HEADINGS, LOWER_IS_BETTER
from fireedit.jobs.evaluation.metrics import Interval
from fireedit.jobs.evaluation.painting import PICTURES, read_seconds
from fireedit.jobs.evaluation.sets.evaluation_set import SetError
from fireedit.jobs.evaluation.tables import LEGEND, RESULT, cell, heading, listed
from fireedit.models.settings import Setting, SettingValue, setting_fields
from fireedit.platform import images, storage
from fireedit.platform.console import say

SEED, WEIGHTS = "seed", "weights"
TABLE, REPORT, PLOT, GRID = "sweep.csv", "sweep.md", "sweep.png", "grid.png"
COLUMNS = ("value", "table", "measure", "mean", "low", "high", "count")
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
"""Label of weights or other text that names a folder."""
APART, SPREAD = 0.15, 0.8
"""Distance of two tables' points of one label, and of the first from the last at most; labels are 1 apart."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Setting and the values that it takes, or weights and their labels."""

    name: str
    """Field of PaintSettings, `seed` or `weights`."""
    values: tuple[SettingValue, ...]
    """Labels of `weights`."""
    folders: Mapping[str, str] = field(default_factory=dict)
    """Folder of each label of `weights`."""

    @property
    def categorical(self) -> bool:
        """True if the values have no distances."""
        return self.name == SEED or any(isinstance(value, str) for value in self.values)

    def config(self, config: EvaluationConfig, value: SettingValue) -> EvaluationConfig:
        """Set a value, and a folder of its own in the sweep's."""
        out, drawn = storage.join(config.out, f"{self.name}-{_folder_name(value)}"), storage.join(config.out, SET)
        config = dataclasses.replace(config, unpacked=drawn, out=out)
        if self.name == SEED:
            return dataclasses.replace(config, seed=int(value))
        if self.name == WEIGHTS:
            editor = config.editor.partition("=")[0]
            return dataclasses.replace(config, editor=f"{editor}={self.folders[str(value)]}")
        return dataclasses.replace(config, changes={**config.changes, self.name: value})


def _folder_name(value: SettingValue) -> str:
    """Name the folder of a value: numbers and labels as they are, other texts by their letters and a hash."""
    text = f"{value}"
    if not isinstance(value, str) or LABEL.fullmatch(text):
        return text
    letters = re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[:40]
    return f"{letters}-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"


def parse_sweep(text: str) -> Sweep:
    """Parse `NAME=VALUE,VALUE,...` or `weights=LABEL=FOLDER,LABEL=FOLDER,...`.

    Raises:
        SetError: the setting is unknown, a value is none of its type and range, or a folder of weights is missing.
    """
    known: dict[str, Setting | None] = {setting.name: setting for setting in setting_fields()} | {SEED: None}
    name, _, listed = text.partition("=")
    if name == WEIGHTS:
        return _parse_weights(text, listed)
    if name not in known or not listed:
        names = ", ".join([*known, WEIGHTS])
        raise SetError(f"--vary {text}: write NAME=VALUE,VALUE,... with a name of {names}")
    setting, values = known[name], list[SettingValue]()
    for word in listed.split(","):
        try:
            values.append((setting.type if setting else int)(word))
            if setting:
                setting.check(values[-1])
        except ValueError:
            domain = setting.domain if setting else "a whole number"
            raise SetError(f"--vary {text}: found {word!r} for {name}; write {domain}") from None
    return Sweep(name=name, values=tuple(dict.fromkeys(values)))


def _parse_weights(text: str, listed: str) -> Sweep:
    folders = dict[str, str]()
    for word in listed.split(","):
        label, _, folder = word.partition("=")
        if not LABEL.fullmatch(label) or not folder or label in folders:
            raise SetError(
                f"--vary {text}: found {word!r}; write weights=LABEL=FOLDER,LABEL=FOLDER,... with different labels of "
                "letters, digits and . _ + -"
            )
        if folder != "nano" and not Path(folder).expanduser().is_dir():
            raise SetError(f"--vary {text}: {folder} is no folder; write one of weights for {label}")
        folders[label] = folder
    return Sweep(name=WEIGHTS, values=tuple(folders), folders=folders)


def run_sweep(sweep: Sweep, config: EvaluationConfig, shown: int) -> list[dict[str, Any]]:
    """Evaluate every value, one after the other; a sweep that was stopped goes on where it was.

    Args:
        config: evaluation at the other settings, whose `out` is the folder of the sweep.
        shown: edits in the grid.
    Returns:
        Rows of the table, by the names of `COLUMNS`.
    """
    rows, results, seconds = list[dict[str, Any]](), list[dict[str, Any]](), list[float | None]()
    for number, value in enumerate(sweep.values, start=1):
        say(f"{sweep.name} {value}  ({number}/{len(sweep.values)})")
        one = sweep.config(config, value)
        evaluate(one)
        results.append(json.loads(storage.read_bytes(storage.join(one.out, RESULT))))
        rows += _rows(value, results[-1])
        taken = read_seconds(one.out)
        seconds.append(statistics.median(taken.values()) if taken else None)
    storage.write_bytes(storage.join(config.out, TABLE), _csv(rows))
    storage.write_bytes(storage.join(config.out, REPORT), markdown(sweep, results, seconds).encode())
    storage.write_bytes(storage.join(config.out, PLOT), plot(sweep, rows))
    folders = {f"{value}": storage.join(sweep.config(config, value).out, PICTURES) for value in sweep.values}
    if edits := compared_edits(open_edits(sweep.config(config, sweep.values[0])), folders)[:shown]:
        without_target = [dataclasses.replace(edit, target="") for edit in edits]
        sheet = np.asarray(edit_sheet(without_target))
        storage.write_bytes(storage.join(config.out, GRID), images.encode_png(sheet))
    return rows


def _rows(value: SettingValue, result: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"value": value, "table": table, "measure": measure, **interval}
        for table in _tables(result)
        for measure, interval in result["tables"][table].items()
    ]


def _tables(result: Mapping[str, Any]) -> list[str]:
    """List the tables of an evaluation that a sweep shows: the totals where there are such."""
    return list(result["totals"] or result["tables"])


def _csv(rows: Sequence[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def markdown(sweep: Sweep, results: Sequence[Mapping[str, Any]], seconds: Sequence[float | None]) -> str:
    """Format a table for each protocol of the set, with a row for each value.

    Args:
        results: content of `evaluation.json` for each value.
        seconds: of painting a picture, for each value; None where no picture was painted.
    """
    first, tables = results[0], dict.fromkeys(table for result in results for table in _tables(result))
    partial = ", part of the published set" if any(result["partial"] for result in results) else ""
    same = [item for item in first["settings"].items() if all(item in each["settings"].items() for each in results)]
    names = [_row_name(sweep, value, result, same) for value, result in zip(sweep.values, results, strict=True)]
    blocks = [f"# {sweep.name} of {first['editor']} on {first['set']}{partial}"]
    if same:
        weights = "" if sweep.name == WEIGHTS else f" `{first['weights']}`"
        blocks.append(f"{first['editor']}{weights}: {listed(dict(same))}.")
    for table in tables:
        means = [result["tables"].get(table, {}) for result in results]
        blocks += [f"## {table}", _table([sweep.name, *names], means, seconds)]
    blocks.append(LEGEND)
    if any(seconds):
        blocks.append("Seconds per picture: the median of the editor's wall seconds, beside the other replicas.")
    return "\n\n".join(blocks) + "\n"


def _row_name(sweep: Sweep, value: SettingValue, result: Mapping[str, Any], same: Sequence[tuple[str, Any]]) -> str:
    """Name a row by its value; weights also by their hash and the settings that they do not share with the others."""
    if sweep.name != WEIGHTS:
        return f"{value}"
    own = [item for item in result["settings"].items() if item not in same]
    return " ".join(filter(None, (f"{value}", f"`{result['weights']}`", f"({listed(dict(own))})" if own else "")))


def _table(names: Sequence[str], means: Sequence[Mapping[str, Any]], seconds: Sequence[float | None]) -> str:
    """Format one table.

    Args:
        names: of the first column, then of each row.
        means: of each row by measure.
    """
    columns, timed = list(dict.fromkeys(column for own in means for column in own)), any(seconds)
    lines = [[names[0], *map(heading, columns), *(["seconds per picture"] if timed else [])]]
    lines.append(["---"] * len(lines[0]))
    for name, own, taken in zip(names[1:], means, seconds, strict=True):
        cells = [cell(Interval(**own[column]), column) if column in own else "" for column in columns]
        lines.append([name, *cells, *([f"{taken:.3g}" if taken else ""] if timed else [])])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def plot(sweep: Sweep, rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Plot each measure over the values with 95 % intervals: lines of numbers, points of labels; returns a PNG."""
    measures, tables = (list(dict.fromkeys(row[name] for row in rows)) for name in ("measure", "table"))
    width = max(3.2, 0.6 * len(sweep.values)) if sweep.categorical else 3.2
    figure = Figure(figsize=(width * len(measures), 3.4), layout="constrained")
    for place, measure in enumerate(measures, start=1):
        axes = figure.add_subplot(1, len(measures), place)
        for number, table in enumerate(tables):
            points = [row for row in rows if (row["measure"], row["table"]) == (measure, table)]
            shift = min(APART, SPREAD / len(tables)) * (number - (len(tables) - 1) / 2)
            draw(axes, sweep, points, table, shift)
        axes.set_title(f"{HEADINGS[measure]}, {'lower' if measure in LOWER_IS_BETTER else 'higher'} is better", size=9)
        axes.set_xlabel(sweep.name)
    figure.axes[0].legend(fontsize=8)
    data = io.BytesIO()
    figure.savefig(data, dpi=120)
    return data.getvalue()


def draw(axes: Axes, sweep: Sweep, points: Sequence[Mapping[str, Any]], table: str, shift: float) -> None:
    """Draw the means of one measure in one table; labels are a unit apart, and their points shifted."""
    mean, low, high = (np.array([row[name] for row in points], float) for name in ("mean", "low", "high"))
    if not sweep.categorical:
        values = [row["value"] for row in points]
        axes.plot(values, mean, marker="o", label=table)
        axes.fill_between(values, low, high, alpha=0.2)
        return
    places = [sweep.values.index(row["value"]) + shift for row in points]
    axes.errorbar(places, mean, yerr=np.maximum([mean - low, high - mean], 0), fmt="o", capsize=3, label=table)
    labels = [f"{value}" for value in sweep.values]
    axes.set_xticks(range(len(labels)), labels, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_xlim(-0.5, len(labels) - 0.5)
