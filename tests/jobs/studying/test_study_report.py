"""Report of a study: tables by rank, the published share, a chart."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from fireedit.jobs.evaluation.metrics import Interval
from fireedit.jobs.studying.orders import ChiSquare
from fireedit.jobs.studying.preferences import Preferences
from fireedit.jobs.studying.study_report import save_report
from tests.jobs.studying.study_evaluations import write_study

PAPER = 944
"""Votes for FireEdit that are the paper's 78.67 % of 40 x 30."""


def test_the_report_ranks_methods(tmp_path: Path) -> None:
    study, _ = write_study(tmp_path, 2, ("copy", "fireedit"))
    found = Preferences(
        votes=[1200 - PAPER, PAPER],
        shares=[Interval((1200 - PAPER) / 1200, 0.1, 0.3, 40), Interval(PAPER / 1200, 0.7, 0.9, 40)],
        wins=np.array([[0, 256], [944, 0]]),
        strengths=np.array([256, 944]) / 1200,
        shown=ChiSquare(0.5, 1, 0.479),
        chosen=ChiSquare(4.0, 1, 0.0456),
        participants=40,
        complete=39,
        median_seconds=11.26,
    )
    report = save_report(study, found, tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text()
    assert "| fireedit | 944 | 78.67% | 70.00% to 90.00% | 0.7867 |\n| copy | 256 | 21.33% |" in text
    assert "1200 votes of 40 participants, 39 of whom answered all 2 questions" in text and "less than 11.3 s" in text
    assert "| fireedit |  | 944 |" in text and "chi-square 4.00 with 1 degrees of freedom, p = 0.046" in text
    assert json.loads((tmp_path / "report" / "report.json").read_text()) == report
    assert report["methods"]["fireedit"]["wins"] == {"copy": 944} and report["votes"] == 1200
    with Image.open(tmp_path / "report" / "shares.png") as image:
        assert image.size[0] > image.size[1] > 100


def test_intervals_that_rounding_leaves_beside_their_mean_are_drawn(tmp_path: Path) -> None:
    study, _ = write_study(tmp_path, 2, ("copy", "fireedit"))
    certain = Interval(0.5, 0.5 + 1e-16, 0.5 - 1e-16, 3)
    none = ChiSquare(0.0, 1, 1.0)
    found = Preferences(
        votes=[3, 3],
        shares=[certain, certain],
        wins=np.array([[0, 3], [3, 0]]),
        strengths=np.array([0.5, 0.5]),
        shown=none,
        chosen=none,
        participants=3,
        complete=3,
        median_seconds=1.0,
    )
    save_report(study, found, tmp_path / "report")
    assert (tmp_path / "report" / "shares.png").stat().st_size > 1000
