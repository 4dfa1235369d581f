"""Report of the benchmark of one card: goals, and a table for each part, as JSON and as a page."""

import datetime
import importlib.metadata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]
"""Figures by name; the end of a name is the unit."""
UNITS = {"_gib": "GiB", "_ms": "ms", "_per_s": "a second", "_s": "s"}
SHARE = "share of the measured matmul"
PACKAGES = ("torch", "diffusers", "transformers")


@dataclass(frozen=True)
class Goal:
    """Figure that the code is built for, on one H100."""

    name: str
    value: float | None
    """Measured; None where the run did not get to it."""
    bar: float
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        if self.value is None:
            return None
        return self.value >= self.bar if self.at_least else self.value <= self.bar


def begin(card: str, tiny: bool, precision: str, minutes: float) -> dict[str, Any]:
    """Begin the results of a run."""
    return {
        "card": card,
        "date": datetime.date.today().isoformat(),
        "sizes": "tiny" if tiny else "paper",
        "precision": precision,
        "minutes": minutes,
        "versions": {name: _version(name) for name in PACKAGES},
        "parts": {},
        "left_out": {},
        "errors": {},
        "goals": [],
    }


def goals(result: dict[str, Any]) -> list[Goal]:
    """Compare a run with the goals, if it is of their sizes; its best edit counts, and its best step of stage 3."""
    if result["sizes"] != "paper":
        return []
    parts, peak = result["parts"], _peak(result)
    edits = [row for name in ("edit, compiled", "edit") for row in parts.get(name, ())]
    fewest = min((row["steps"] for row in edits), default=50)
    edit: Row = min((row for row in edits if row["steps"] == fewest), key=lambda row: row["edit_s"], default={})
    whole = [row["peak_gib"] for row in parts.get("memory", ()) if row["stage"] == "whole"]
    theirs = [row["step_ms"] for row in parts.get("diffusers", ())]
    trained = [row for row in parts.get("training", ()) if row["stage"] == 3]
    step: Row = max(trained, key=lambda row: row["llm_unet_flops_per_s"], default={})
    zero = "" if not step else f", {'without ZeRO' if step['zero'] is None else 'under ZeRO ' + str(step['zero'])}"
    mfu = step["llm_unet_flops_per_s"] / peak if step and peak else None
    return [
        Goal(f"edit of {fewest} steps, s", edit.get("edit_s"), 0.8),
        Goal("peak memory of the whole, GiB", whole[0] if whole else None, 20),
        Goal("diffusers' plain step over ours", theirs[0] / edit["step_ms"] if theirs and edit else None, 3, True),
        Goal(f"MFU of LLM and UNet in stage 3{zero}", mfu, 0.45, True),
    ]


def to_markdown(result: dict[str, Any]) -> str:
    """Write the page of a run, and its goals into the result."""
    compared = goals(result)
    result["goals"] = [vars(goal) | {"met": goal.met} for goal in compared]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines = [
        f"# {result['card']}: speed and memory",
        "",
        f"`python benchmarks/gpu.py`, {result['date']}, {result['minutes']:g} minutes at most; {result['sizes']} sizes "
        f"with random weights, {result['precision']}; {versions}.",
        "",
        *(_table([_goal_row(goal) for goal in compared]) if compared else ["No goal is for these sizes."]),
    ]
    for name, rows in result["parts"].items():
        if rows:
            lines += ["", f"## {name.capitalize()}", "", *_table([_shown(row, result) for row in rows])]
    if result["left_out"]:
        lines += ["", "## Left out", "", *(f"- {name}: {reason}" for name, reason in result["left_out"].items())]
    return "\n".join(lines) + "\n"


def _version(package: str) -> str:
    """Look a package's version up without its import; a package copied without its metadata has none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


def _goal_row(goal: Goal) -> Row:
    bar = f"{'at least' if goal.at_least else 'at most'} {goal.bar:g}"
    verdict = {None: "not measured", True: "met", False: "missed"}[goal.met]
    return {"goal, on one H100": goal.name, "bar": bar, "here": goal.value, "verdict": verdict}


def _peak(result: dict[str, Any]) -> float | None:
    """Return the data sheet's operations a second, or else those measured."""
    measured = result["parts"].get("roofline") or [{}]
    return measured[0].get("peak_flops") or measured[0].get("matmul_flops")


def _shown(row: Row, result: dict[str, Any]) -> Row:
    """Give figures their units, and operations a second their share of what the card does."""
    measured = (result["parts"].get("roofline") or [{}])[0]
    shown: Row = {}
    for name, value in row.items():
        if name.endswith(("_flops", "flops_per_s")):
            shown[f"{name.removesuffix('_per_s').replace('_', ' ')}, TFLOP/s"] = None if value is None else value / 1e12
        elif name == "zero":
            shown["ZeRO"] = "none" if value is None else value
        elif name == "copy_bytes":
            shown["copy, GB/s"] = value / 1e9
        else:
            unit = next((unit for end, unit in UNITS.items() if name.endswith(end)), "")
            end = next((end for end in UNITS if name.endswith(end)), "")
            label = name.removesuffix(end).replace("_", " ")
            shown[f"{label} {unit}" if unit == "a second" else f"{label}, {unit}" if unit else label] = value
    if row.get("flops_per_s") and measured.get("matmul_flops"):
        shown[SHARE] = row["flops_per_s"] / measured["matmul_flops"]
    if "llm_unet_flops_per_s" in row and (peak := _peak(result)):
        shown["MFU of LLM and UNet"] = row["llm_unet_flops_per_s"] / peak
    return shown


def _table(rows: Sequence[Row]) -> Iterator[str]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    yield "| " + " | ".join(names) + " |"
    yield "|" + "---|" * len(names)
    for row in rows:
        yield "| " + " | ".join(cell(row.get(name)) for name in names) + " |"


def cell(value: Any) -> str:
    """Format a figure for a table."""
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
