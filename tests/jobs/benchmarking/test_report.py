"""The report says who was judged by whom, and shows the first cases as they are."""

import numpy as np

from fireedit.jobs.benchmarking.cases import Cases
from fireedit.jobs.benchmarking.judges import Judges
from fireedit.jobs.benchmarking.parser import ParserConfig, SceneParser
from fireedit.jobs.benchmarking.report import PICTURE, contact_sheet, gallery, markdown
from tests.jobs.benchmarking.test_results import results, score


def test_the_report_holds_a_line_for_each_family_and_row() -> None:
    judges = Judges(SceneParser(ParserConfig(widths=(8, 16), groups=4, artworks=("openmoji",))))
    text = markdown(results(), judges, "python jobs/benchmark.py")
    assert "| remove | 2 | 0 (0 to 0) | 50 (0 to 100) |" in text
    assert "nano-DINO" in text.split("Left out")[1].splitlines()[0]
    assert "in the artwork openmoji." in text
    assert "`full` succeeds oftener" in text and "copy 100 (100 to 100)" in text
    assert "L1 outside all masks after turn 3" in text
    assert all(line.count("|") >= 3 for line in text.splitlines() if line.startswith("|"))


def test_a_sheet_shows_the_first_cases() -> None:
    cases = Cases(32).of("unseen_seeds", "remove", 2)
    pictures = {"copy": np.stack([case.source for case in cases])}
    page = contact_sheet(cases, pictures, {"copy": [score(False, 0.1), score(True, 0.0)]})
    assert page.width > 3 * PICTURE and page.height > 2 * PICTURE


def test_the_gallery_has_a_family_below_another() -> None:
    shown = {
        family: [(case, case.source) for case in Cases(32).of("unseen_seeds", family, 2)]
        for family in ("add", "remove")
    }
    page = gallery(shown)
    assert page.width > 6 * PICTURE and 2 * PICTURE < page.height < 3 * PICTURE
