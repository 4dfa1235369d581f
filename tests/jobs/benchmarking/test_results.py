"""Means are of what was measured, and JSON holds them all."""

import json
import math

from fireedit.jobs.benchmarking.judges import Score
from fireedit.jobs.benchmarking.results import Results, Row, Settings, Turns

NAN = float("nan")


def score(success: bool, l1: float, inside: float = 0.1) -> Score:
    return Score(success, () if success else ("no dog",), l1, inside, 0.01, 20.0, 40.0, 0.2)


def results() -> Results:
    settings = Settings(["unseen_seeds"], ["remove", "color"], 2, 1, 5, 7.5, 1.5, 0.0, side=64)
    found = Results(settings, [Row("copy", "", ""), Row("full", "abc", "true")], {"parser": "def"})
    for family in ("remove", "color"):
        found.add("unseen_seeds", family, "copy", [score(False, 0.1), score(False, 0.3, NAN)])
        found.add("unseen_seeds", family, "full", [score(True, 0.0), score(family == "color", 0.2)])
    found.sessions["unseen_seeds"] = {"full": Turns([[0.01], [0.02], [NAN]], [True])}
    return found


def test_a_mean_is_over_all_families_that_are_asked_for() -> None:
    found = results()
    assert found.mean("unseen_seeds", ["remove"], "full", "success").mean == 0.5
    assert found.mean("unseen_seeds", ["remove", "color"], "full", "success").mean == 0.75
    assert found.mean("unseen_seeds", ["remove"], "copy", "l1_inside").count == 1
    assert found.mean("unseen_seeds", ["remove"], "copy", "dino").count == 0
    assert math.isclose(found.mean("unseen_seeds", ["remove"], "copy", "l1").mean, 0.2)


def test_a_lead_is_counted_case_by_case() -> None:
    lead = results().lead("unseen_seeds", ["color"], "full", "copy")
    assert (lead.mean, lead.low, lead.high, lead.count) == (1, 1, 1, 2)


def test_json_holds_means_and_settings_and_no_nan() -> None:
    told = json.loads(json.dumps(results().as_json(), allow_nan=False))
    assert told["settings"]["edits"] == 2 and told["rows"][1]["weights"] == "abc"
    full = told["splits"]["unseen_seeds"]["remove"]["full"]
    assert full["success"]["mean"] == 0.5 and "dino" not in full
    assert told["sessions"]["unseen_seeds"]["full"]["success"]["mean"] == 1
