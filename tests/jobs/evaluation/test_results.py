"""Means are of what was measured, relative ones of pairs, and JSON holds them all on few lines."""

import json
import math

from fireedit.jobs.evaluation.cases import Cases
from fireedit.jobs.evaluation.judges import Score
from fireedit.jobs.evaluation.results import Results, Row, Settings, Turns, compact, score_lines

NAN = float("nan")


def score(success: bool, l1: float, inside: float = 0.1) -> Score:
    return Score(success, () if success else ("no dog",), l1, inside, 0.01, 20.0, 40.0, 0.2)


def results() -> Results:
    settings = Settings(["unseen_seeds"], ["remove", "color"], 2, 1, side=64)
    rows = [Row("target", "", ""), Row("copy", "", ""), Row("full", "abc", "true", "steps 2, s_T 1, s_I 1")]
    found = Results(settings, rows, {"parser": "def"})
    for family in ("remove", "color"):
        found.add("unseen_seeds", family, "target", [score(True, 0.0), score(family == "color", 0.0)])
        found.add("unseen_seeds", family, "copy", [score(False, 0.1), score(False, 0.3, NAN)])
        found.add("unseen_seeds", family, "full", [score(True, 0.0), score(family == "color", 0.2)])
    played = Turns([[0.01, 0.03], [0.02, 0.01], [NAN, 0.06]], [True, False])
    found.sessions["unseen_seeds"] = {row.name: played for row in rows}
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


def test_relative_success_is_that_of_the_same_cases_targets() -> None:
    found = results()
    relative = found.relative("unseen_seeds", ["remove"], "full")
    assert (relative.mean, relative.low, relative.high) == (1, 1, 1), "it fails where the judge fails the target too"
    assert found.relative("unseen_seeds", ["remove", "color"], "copy").mean == 0


def test_l1_grows_over_the_turns_of_the_sessions_that_have_an_outside() -> None:
    growth = results().growth("unseen_seeds", "full")
    assert math.isclose(growth.mean, 2) and growth.count == 1
    assert results().last_scene("unseen_seeds", "full").mean == 0.5
    assert math.isclose(results().outside("unseen_seeds", "full").mean, 0.01)


def test_json_holds_means_and_settings_on_a_line_for_each_row() -> None:
    text = compact(results().as_json())
    told = json.loads(text)
    assert told["settings"]["edits"] == 2 and told["rows"][2]["weights"] == "abc"
    full = told["splits"]["unseen_seeds"]["remove"]["full"]
    assert full["success"][0] == 0.5 and full["relative"] == [1, 1, 1] and full["edits"] == 2 and "dino" not in full
    assert told["sessions"]["unseen_seeds"]["full"]["last_over_first"][0] == 2
    assert sum('"full": {"edits"' in line for line in text.splitlines()) == 2
    assert len(text.splitlines()) < 40 and "NaN" not in text


def test_an_edit_is_a_line_with_its_verdict() -> None:
    cases = Cases(16).of("unseen_seeds", "remove", 2)
    lines = score_lines("unseen_seeds", "remove", "full", cases, [score(True, 0.0), score(False, 0.1, NAN)])
    right, wrong = map(json.loads, lines.splitlines())
    assert right["instruction"] == cases[0].instruction and right["seed"] == cases[0].seed
    assert right["success"] is True and wrong["wrong"] == ["no dog"] and wrong["l1_inside"] is None
