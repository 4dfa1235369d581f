"""Bars are met by figures and not by the want of them."""

from fireedit.jobs.evaluation.bars import KNOWLEDGE, RELATIVE, Bar, all_bars, family_bars
from fireedit.jobs.evaluation.cases import FAMILIES
from fireedit.jobs.evaluation.metrics import Interval
from fireedit.jobs.evaluation.results import Row
from tests.jobs.evaluation.test_results import NAN, results, score


def test_every_family_has_a_bar() -> None:
    assert set(FAMILIES) == set(RELATIVE)


def test_the_last_row_is_held_to_the_bars_that_were_measured() -> None:
    met = {bar.name: bar.met for bar in all_bars(results())}
    assert met["remove"] and met["color"] and len(met) == 5
    assert not met["L1 outside the mask, edits of things"], "0.01 is more than the limit"
    assert not met["L1 outside all masks, last turn over first"] and met["success of the last scene of a session"]
    assert list(family_bars(results())) == ["remove", "color"]


def test_a_lead_must_be_above_nothing_with_its_interval() -> None:
    found = results()
    found.rows[1] = Row("ip2p", "def", "")
    for row, successes in (("ip2p", (False, False)), ("full", (True, True))):
        found.add(KNOWLEDGE, "reasoning", row, [score(one, 0.1) for one in successes])
    assert all_bars(found)[-1].name.startswith(KNOWLEDGE) and all_bars(found)[-1].met
    assert not Bar("lead", Interval(0.5, -0.1, 0.9, 9), 0.15, above=0.0).met


def test_what_was_not_measured_is_not_met() -> None:
    nothing = Interval(NAN, NAN, NAN, 0)
    assert not Bar("a", nothing, 0.5).met and not Bar("a", nothing, 0.5, is_limit=True).met
