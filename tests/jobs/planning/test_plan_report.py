"""Report of a plan."""

import json
from collections.abc import Mapping
from dataclasses import replace

import pytest

from fireedit.jobs.planning.choices import Choices
from fireedit.jobs.planning.costs import cost_of
from fireedit.jobs.planning.instances import load_prices, parse_cluster
from fireedit.jobs.planning.levers import flops_of, levers
from fireedit.jobs.planning.memory import Weights
from fireedit.jobs.planning.plan_report import Plan, part_flops, to_json, to_text
from fireedit.jobs.planning.step_cost import StepCost
from fireedit.jobs.training.recipe import TrainRecipe


@pytest.fixture
def plan(nano: TrainRecipe, weights: Weights, round_costs: Mapping[bool, StepCost]) -> Plan:
    """Plan of 256 samples a step at micro-batch 4 with checkpointing; 8 without is recommended."""
    engine = replace(nano.engine, micro_batch=4, accumulate=4, zero_stage=1)
    recipe = replace(nano, engine=engine, workers=replace(nano.workers, count=16), gradient_checkpointing=True)
    prices = load_prices()
    cluster = parse_cluster("16xa100-80g", prices)
    choices = Choices(recipe, cluster, weights, round_costs)
    priced = {key: cost_of(recipe, cluster, prices, weights, flops_of(cost), 0.18) for key, cost in round_costs.items()}
    return Plan(
        choices=choices,
        own=choices.own(),
        own_cost=priced[True],
        recommended=choices.recommended(),
        recommended_cost=priced[False],
        utilization=0.18,
        levers=levers(round_costs, prices),
    )


def test_recomputation_is_what_checkpointing_adds(plan: Plan) -> None:
    unet, vae = part_flops(plan.choices)
    assert (unet.part, unet.forward, unet.backward, unet.recomputed) == ("unet", 10, 8, 5)
    assert (vae.part, vae.forward, vae.backward, vae.recomputed) == ("vae", 2, 0, 0)


def test_the_line_of_json_holds_parts_that_sum_to_the_total(plan: Plan) -> None:
    report = json.loads(json.dumps(to_json(plan)))
    for setting in (report["setting"], report["recommended"]):
        assert sum(setting["parts"].values()) == pytest.approx(setting["gb"])
    assert report["setting"]["gb"] in [row["gb"] for row in report["memory"]]
    assert report["recommended_cost"]["hours"] < report["cost"]["hours"]


def test_tables_mark_the_recipe_and_the_recommendation(plan: Plan) -> None:
    lines = list(to_text(plan))
    own, recommended = (f"{choice.memory.total / 1e9:.1f}" for choice in (plan.own, plan.recommended) if choice)
    assert any(f"*{own}" in line for line in lines)
    assert any(f">{recommended}" in line for line in lines)
    assert any("!" in line and line.startswith("all, ZeRO 1 without") for line in lines)  # micro-batch 16
    assert max(map(len, lines)) <= 120


def test_assumed_shares_of_the_peak_are_called_so(plan: Plan) -> None:
    lines = [line for line in to_text(plan) if line.endswith("share of the peak assumed")]
    assert len(lines) == 2
    assert any(line.strip().startswith("64 h on 16xa100-80g") for line in to_text(plan))
