"""Published training time and the ways to a shorter one."""

from collections.abc import Mapping

import pytest

from fireedit.jobs.planning.instances import load_prices, parse_cluster
from fireedit.jobs.planning.levers import PAPER_CLUSTER, PAPER_HOURS, TARGET_HOURS, flops_of, hours_of, levers
from fireedit.jobs.planning.step_cost import StepCost


def test_every_lever_shortens_the_run(round_costs: Mapping[bool, StepCost]) -> None:
    hours = [lever.hours for lever in levers(round_costs, load_prices())]
    assert hours == sorted(hours, reverse=True)


def test_flops_change_where_they_are_counted_and_the_share_of_the_peak_where_it_is_assumed(
    round_costs: Mapping[bool, StepCost],
) -> None:
    listed = levers(round_costs, load_prices())
    assert [lever.tflop for lever in listed] == [25, 20, 18, 18, 18]
    assert [lever.assumed for lever in listed] == [False, False, False, True, True]
    assert len({lever.utilization for lever in listed[:3]}) == 1


def test_the_published_time_follows_from_the_papers_flops() -> None:
    """28 TFLOP a sample is what the step of stage 3 takes with gradient checkpointing."""
    cluster = parse_cluster(PAPER_CLUSTER, load_prices())
    assert hours_of(28e12, cluster, 0.18) == pytest.approx(PAPER_HOURS, rel=0.05)
    assert hours_of(20.2e12, cluster, 0.38) < TARGET_HOURS


def test_flops_of_a_step_are_those_of_both_passes(round_costs: Mapping[bool, StepCost]) -> None:
    assert flops_of(round_costs[True]) == 25e12
