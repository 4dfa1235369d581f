"""Bars are met only by figures that were measured."""

from fireedit.jobs.evaluation.bars import KNOWLEDGE, RELATIVE, Bar, all_bars, family_bars
from fireedit.jobs.evaluation.cases import FAMILIES
from fireedit.jobs.evaluation.metrics import UNKNOWN, Interval
from fireedit.jobs.evaluation.scene_results import Row
from tests.jobs.evaluation.test_scene_results import results, score


def test_every_family_has_a_bar() -> None:
    assert set(FAMILIES) == set(RELATIVE)


def test_the_last_row_is_compared_with_the_bars_that_were_measured() -> None:
    met = {bar.name: bar.met for bar in all_bars(results())}
    assert met["remove"] and met["color"] and len(met) == 5
    assert not met["L1 outside the mask, edits of things"], "0.01 exceeds the limit"
    assert not met["L1 outside all masks, last turn over first"] and met["success of the last scene of a session"]
    assert list(family_bars(results())) == ["remove", "color"]


def test_the_interval_of_a_lead_must_be_above_zero() -> None:
    measured = results()
    measured.rows[1] = Row("instruct-pix2pix", "def")
    verdicts = {"instruct-pix2pix": [score(False, 0.1)] * 2, "fireedit": [score(True, 0.1)] * 2}
    measured.scores[KNOWLEDGE] = {"reasoning": verdicts}
    assert all_bars(measured)[-1].name.startswith(KNOWLEDGE) and all_bars(measured)[-1].met
    assert not Bar("lead", Interval(0.5, -0.1, 0.9, 9), 0.15, above=0.0).met


def test_a_bar_without_a_figure_is_not_met() -> None:
    assert not Bar("a", UNKNOWN, 0.5).met and not Bar("a", UNKNOWN, 0.5, is_limit=True).met
