"""The report tabulates rows, judges and bars; sheets show the first cases."""

import numpy as np

from fireedit.jobs.evaluation.cases import Cases
from fireedit.jobs.evaluation.judges import Judges
from fireedit.jobs.evaluation.report import HEADER, PICTURE, first_passed, gallery, markdown
from fireedit.jobs.evaluation.scene_reader import SceneReader, SceneReaderConfig
from tests.jobs.evaluation.test_results import results, score


def test_the_report_has_a_line_for_each_family_with_relative_success_and_bars() -> None:
    judges = Judges(SceneReader(SceneReaderConfig(widths=(8, 16), groups=4, artworks=("openmoji",))))
    text = markdown(results(), judges, "python jobs/benchmark.py")
    assert "| family | edits | target | copy | full | full, relative | wanted | met |" in text
    assert "| remove | 2 | 50 (0 to 100) | 0 (0 to 0) | 50 (0 to 100) | 100 (100 to 100) | 80 | met |" in text
    assert "`full` meets 3 of 5 bars" in text
    assert "| L1 outside the mask, edits of things | 0.0100 (0.0100 to 0.0100) | at most 0.005 | not met |" in text
    assert "nano-DINO" in text.split("Not measured")[1].splitlines()[0]
    assert "in the artwork openmoji." in text and "steps 2, s_T 1, s_I 1" in text
    assert "Lead of `full`" in text and "copy 100 (100 to 100)" in text
    assert "L1 outside all masks after turn 3 | last turn over first" in text
    assert all(line.count("|") >= 3 for line in text.splitlines() if line.startswith("|"))


def test_the_gallery_has_a_line_for_each_family_under_its_title() -> None:
    shown = {
        family: [(case, case.source) for case in Cases(32).of("unseen_seeds", family, 2)]
        for family in ("add", "remove")
    }
    page = gallery(shown, "unselected")
    assert page.width > 6 * PICTURE and 2 * PICTURE + HEADER < page.height < 3 * PICTURE + HEADER
    assert np.array(page)[:HEADER].min() < 100, "the title is drawn"
    assert gallery(shown, "side by side", columns=4).height < 2 * PICTURE + HEADER


def test_the_first_edit_that_the_judge_passed_is_selected() -> None:
    cases = Cases(32).of("unseen_seeds", "remove", 4)
    pictures = np.stack([case.target for case in cases])
    selected = first_passed(cases, pictures, [score(number > 0, 0.0) for number in range(4)])
    assert [case.number for case, _ in selected] == [1]
    assert first_passed(cases, pictures, [score(False, 0.0)] * 4) == []
