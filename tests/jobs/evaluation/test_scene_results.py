"""Results average the values that were measured, and pair relative figures by case."""

import math

from fireedit.jobs.evaluation.scene_results import Results, Row, SessionScores
from fireedit.jobs.evaluation.sets.evaluation_set import Comparison

NAN = float("nan")


def score(success: bool, l1: float, inside: float = 0.1) -> dict[str, float]:
    measures = {"success": float(success), "l1": l1, "l1_inside": inside, "l1_outside": 0.01}
    return measures | {"psnr_inside": 20.0, "psnr_outside": 40.0, "perceptual": 0.2}


def results() -> Results:
    rows = [Row("target"), Row("copy"), Row("fireedit", "abc", "steps 2, s_T 1, s_I 1")]
    measured = Results(rows, {"parser": "def"})
    for family in ("remove", "color"):
        measured.scores.setdefault("unseen_seeds", {})[family] = {
            "target": [score(True, 0.0), score(family == "color", 0.0)],
            "copy": [score(False, 0.1), score(False, 0.3, NAN)],
            "fireedit": [score(True, 0.0), score(family == "color", 0.2)],
        }
    sessions = SessionScores([[0.01, 0.03], [0.02, 0.01], [NAN, 0.06]], [True, False])
    measured.sessions["unseen_seeds"] = {row.name: sessions for row in rows}
    return measured


def test_a_mean_covers_all_families_given() -> None:
    measured = results()
    assert measured.mean("unseen_seeds", ["remove"], "fireedit", "success").mean == 0.5
    assert measured.mean("unseen_seeds", ["remove", "color"], "fireedit", "success").mean == 0.75
    assert measured.mean("unseen_seeds", ["remove"], "copy", "l1_inside").count == 1
    assert measured.mean("unseen_seeds", ["remove"], "copy", "nano_dino").count == 0
    assert math.isclose(measured.mean("unseen_seeds", ["remove"], "copy", "l1").mean, 0.2)


def test_a_lead_is_paired_by_case() -> None:
    lead = results().lead("unseen_seeds", ["color"], "fireedit", "copy")
    assert (lead.mean, lead.low, lead.high, lead.count) == (1, 1, 1, 2)


def test_relative_success_divides_by_that_of_the_same_cases_targets() -> None:
    measured = results()
    relative = measured.relative("unseen_seeds", ["remove"], "fireedit")
    assert (relative.mean, relative.low, relative.high) == (1, 1, 1), "it fails where the target fails too"
    assert measured.relative("unseen_seeds", ["remove", "color"], "copy").mean == 0


def test_growth_of_l1_skips_sessions_whose_masks_cover_everything() -> None:
    growth = results().growth("unseen_seeds", "fireedit")
    assert math.isclose(growth.mean, 2) and growth.count == 1
    assert results().last_scene("unseen_seeds", "fireedit").mean == 0.5
    assert math.isclose(results().outside("unseen_seeds", "fireedit").mean, 0.01)


def test_measured_edits_and_turns_are_sorted_by_table() -> None:
    tables = ["unseen_seeds/add", "unseen_seeds/add", "unseen_seeds/session_1", "unseen_seeds/session_2"]
    comparisons = [Comparison(table=table, unit="", output="", reference="") for table in tables]
    values = [{"success": 1.0, "l1_inside": NAN, "l1_outside": 0.1, "reader": reader} for reader in (1.0, 0.0)]
    values += [{"success": success, "l1_outside": 0.2, "reader": NAN} for success in (NAN, 0.0)]
    measured = Results([Row("target"), Row("fireedit")], {})
    measured.add_reader(comparisons, values)
    measured.add("fireedit", comparisons, values)
    assert measured.values("unseen_seeds", ["add"], "target", "success") == [1, 0]
    assert measured.relative("unseen_seeds", ["add"], "fireedit").mean == 2
    assert measured.mean("unseen_seeds", ["add"], "fireedit", "l1_inside").count == 0
    session = measured.sessions["unseen_seeds"]["fireedit"]
    assert session == SessionScores([[0.2], [0.2]], [False]) and list(measured.sessions["unseen_seeds"]) == ["fireedit"]
