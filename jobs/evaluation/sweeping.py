"""Sweeps: one evaluation for each value of a setting, and their figures in a table, a plot and a grid of pictures."""

import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fireedit.jobs.evaluation.comparing import compared_edits, edit_sheet
from fireedit.jobs.evaluation.evaluations import EvaluationConfig, evaluate, open_edits
from fireedit.jobs.evaluation.measuring import HEADINGS, LOWER_IS_BETTER
from fireedit.jobs.evaluation.painting import PICTURES
from fireedit.jobs.evaluation.sets.evaluation_set import SetError
from fireedit.jobs.evaluation.tables import RESULT
from fireedit.models.settings import Setting, SettingValue, setting_fields
from fireedit.platform import images, storage
from fireedit.platform.console import say

SEED = "seed"
TABLE, PLOT, GRID = "sweep.csv", "sweep.png", "grid.png"
COLUMNS = ("value", "table", "measure", "mean", "low", "high", "count")


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Setting and the values that it takes."""

    name: str
    """Field of PaintSettings, or `seed`."""
    values: tuple[SettingValue, ...]

    def config(self, config: EvaluationConfig, value: SettingValue) -> EvaluationConfig:
        """Set a value, and a folder of its own in the sweep's."""
        out = storage.join(config.out, f"{self.name}-{value}")
        if self.name == SEED:
            return dataclasses.replace(config, seed=int(value), out=out)
        return dataclasses.replace(config, changes={**config.changes, self.name: value}, out=out)


def parse_sweep(text: str) -> Sweep:
    """Parse `NAME=VALUE,VALUE,...`.

    Raises:
        SetError: the setting is unknown, or a value is none of its type and range.
    """
    known: dict[str, Setting | None] = {setting.name: setting for setting in setting_fields()} | {SEED: None}
    name, _, listed = text.partition("=")
    if name not in known or not listed:
        raise SetError(f"--vary {text}: write NAME=VALUE,VALUE,... with a name of {', '.join(known)}")
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


def run_sweep(sweep: Sweep, config: EvaluationConfig, shown: int) -> list[dict[str, Any]]:
    """Evaluate every value, one after the other; a sweep that was stopped goes on where it was.

    Args:
        config: evaluation at the other settings, whose `out` is the folder of the sweep.
        shown: edits in the grid.
    Returns:
        Rows of the table, by the names of `COLUMNS`.
    """
    rows = list[dict[str, Any]]()
    for number, value in enumerate(sweep.values, start=1):
        say(f"{sweep.name} {value}  ({number}/{len(sweep.values)})")
        one = sweep.config(config, value)
        evaluate(one)
        rows += _rows(value, json.loads(storage.read_bytes(storage.join(one.out, RESULT))))
    storage.write_bytes(storage.join(config.out, TABLE), _csv(rows))
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
        for table, means in result["tables"].items()
        for measure, interval in means.items()
    ]


def _csv(rows: Sequence[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def plot(sweep: Sweep, rows: Sequence[dict[str, Any]]) -> bytes:
    """Plot each measure over the values, a line with its 95 % interval for each table; returns a PNG."""
    measures, tables = (list(dict.fromkeys(row[name] for row in rows)) for name in ("measure", "table"))
    figure = Figure(figsize=(3.2 * len(measures), 3), layout="constrained")
    for place, measure in enumerate(measures, start=1):
        axes = figure.add_subplot(1, len(measures), place)
        for table in tables:
            points = [row for row in rows if (row["measure"], row["table"]) == (measure, table)]
            mean, low, high = ([row[name] for row in points] for name in ("mean", "low", "high"))
            axes.plot([row["value"] for row in points], mean, marker="o", label=table)
            axes.fill_between([row["value"] for row in points], low, high, alpha=0.2)
        axes.set_title(f"{HEADINGS[measure]}, {'lower' if measure in LOWER_IS_BETTER else 'higher'} is better", size=9)
        axes.set_xlabel(sweep.name)
    figure.axes[0].legend(fontsize=8)
    data = io.BytesIO()
    figure.savefig(data, dpi=120)
    return data.getvalue()
