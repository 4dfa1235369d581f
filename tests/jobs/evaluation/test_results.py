"""Results average the values that were measured, pair relative figures by case, and format as compact JSON."""

import json
import math

from fireedit.jobs.evaluation.cases import Cases
from fireedit.jobs.evaluation.judges import Score
from fireedit.jobs.evaluation.results import BenchmarkConfig, Results, Row, SessionScores, compact, score_lines

NAN = float("nan")


def score(success: bool, l1: float, inside: float = 0.1) -> Score:
    measures = {"success": float(success), "l1": l1, "l1_inside": inside, "l1_outside": 0.01}
    measures |= {"psnr_inside": 20.0, "psnr_outside": 40.0, "perceptual": 0.2}
    return Score(() if success else ("no dog",), measures)


def results() -> Results:
    config = BenchmarkConfig(["unseen_seeds"], ["remove", "color"], 2, 1, side=64)
    rows = [Row("target", "", ""), Row("copy", "", ""), Row("full", "abc", "true", "steps 2, s_T 1, s_I 1")]
    measured = Results(config, rows, {"parser": "def"})
    for family in ("remove", "color"):
        measured.scores.setdefault("unseen_seeds", {})[family] = {
            "target": [score(True, 0.0), score(family == "color", 0.0)],
            "copy": [score(False, 0.1), score(False, 0.3, NAN)],
            "full": [score(True, 0.0), score(family == "color", 0.2)],
        }
    sessions = SessionScores([[0.01, 0.03], [0.02, 0.01], [NAN, 0.06]], [True, False])
    measured.sessions["unseen_seeds"] = {row.name: sessions for row in rows}
    return measured


def test_a_mean_covers_all_families_given() -> None:
    measured = results()
    assert measured.mean("unseen_seeds", ["remove"], "full", "success").mean == 0.5
    assert measured.mean("unseen_seeds", ["remove", "color"], "full", "success").mean == 0.75
    assert measured.mean("unseen_seeds", ["remove"], "copy", "l1_inside").count == 1
    assert measured.mean("unseen_seeds", ["remove"], "copy", "dino").count == 0
    assert math.isclose(measured.mean("unseen_seeds", ["remove"], "copy", "l1").mean, 0.2)


def test_a_lead_is_paired_by_case() -> None:
    lead = results().lead("unseen_seeds", ["color"], "full", "copy")
    assert (lead.mean, lead.low, lead.high, lead.count) == (1, 1, 1, 2)


def test_relative_success_divides_by_that_of_the_same_cases_targets() -> None:
    measured = results()
    relative = measured.relative("unseen_seeds", ["remove"], "full")
    assert (relative.mean, relative.low, relative.high) == (1, 1, 1), "it fails where the target fails too"
    assert measured.relative("unseen_seeds", ["remove", "color"], "copy").mean == 0


def test_growth_of_l1_skips_sessions_whose_masks_cover_everything() -> None:
    growth = results().growth("unseen_seeds", "full")
    assert math.isclose(growth.mean, 2) and growth.count == 1
    assert results().last_scene("unseen_seeds", "full").mean == 0.5
    assert math.isclose(results().outside("unseen_seeds", "full").mean, 0.01)


def test_json_has_means_and_settings_with_a_line_for_each_row() -> None:
    text = compact(results().as_json())
    written = json.loads(text)
    assert written["settings"]["edits"] == 2 and written["rows"][2]["weights"] == "abc"
    full = written["splits"]["unseen_seeds"]["remove"]["full"]
    assert full["success"][0] == 0.5 and full["relative"] == [1, 1, 1] and full["edits"] == 2 and "dino" not in full
    assert written["sessions"]["unseen_seeds"]["full"]["last_over_first"][0] == 2
    assert sum('"full": {"edits"' in line for line in text.splitlines()) == 2
    assert len(text.splitlines()) < 40 and "NaN" not in text


def test_verdicts_are_stored_under_the_hash_of_earlier_runs() -> None:
    """The hash of the same benchmark before its config's class was renamed."""
    assert results().key == "1d66d3024aa5"


def test_each_edit_is_a_line_with_its_verdict() -> None:
    cases = Cases(16).of("unseen_seeds", "remove", 2)
    lines = score_lines("unseen_seeds", "remove", "full", cases, [score(True, 0.0), score(False, 0.1, NAN)])
    right, wrong = map(json.loads, lines.splitlines())
    assert right["instruction"] == cases[0].instruction and right["seed"] == cases[0].seed
    assert right["success"] is True and wrong["wrong"] == ["no dog"] and wrong["l1_inside"] is None
