"""Plan a run before paying for it: `python jobs/plan.py --stage N --config paper --gpus 16xa100-80g [key=value ...]`.

Reads the recipe that jobs/train.py would run, measures one step of it on fake tensors, and prints the memory of a GPU
for every level of ZeRO and micro-batch, FLOPs, hours, dollars and storage. Needs no GPU; half a minute at the paper's
size. Exits with 1 and a sentence if the recipe does not fit.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import argparse
import json
from collections.abc import Sequence

from fireedit.jobs.planning.choices import Choice, Choices
from fireedit.jobs.planning.costs import Cost, cost_of
from fireedit.jobs.planning.example_batch import TEXT_TOKENS
from fireedit.jobs.planning.instances import load_prices, parse_cluster
from fireedit.jobs.planning.levers import PAPER_UTILIZATION, flops_of, levers
from fireedit.jobs.planning.memory import weights_of
from fireedit.jobs.planning.plan_report import Plan, to_json, to_text
from fireedit.jobs.planning.step_cost import build_on_meta, measure_step
from fireedit.jobs.training.recipe import TrainRecipe, read_recipe
from fireedit.jobs.training.recipe import build_parser as train_parser
from fireedit.platform.config import RecipeError
from fireedit.platform.console import say


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_intermixed_args(argv)
    recipe = read_recipe(["--stage", str(args.stage), "--config", args.config, *args.overrides])
    try:
        plan = make_plan(recipe, args)
    except RecipeError as error:
        sys.exit(f"plan.py: {error}")
    for line in to_text(plan):
        say(line)
    print(json.dumps(to_json(plan)))
    refusal = plan.choices.refusal(plan.own)
    if refusal is not None:
        say(f"plan.py: {refusal}")
    return int(refusal is not None)


def make_plan(recipe: TrainRecipe, args: argparse.Namespace) -> Plan:
    """Measure the recipe's step with and without gradient checkpointing, and price both."""
    prices = load_prices()
    cluster = parse_cluster(args.gpus, prices)
    costs = {checkpointing: measure_step(recipe, checkpointing, args.text_tokens) for checkpointing in (False, True)}
    choices = Choices(recipe, cluster, weights_of(build_on_meta(recipe), recipe), costs)
    own, recommended = choices.own(), choices.recommended()

    def price(choice: Choice) -> Cost:
        flops = flops_of(costs[choice.checkpointing])
        return cost_of(recipe, cluster, prices, choices.weights, flops, args.mfu)

    return Plan(
        choices=choices,
        own=own,
        own_cost=price(own),
        recommended=recommended,
        recommended_cost=None if recommended is None else price(recommended),
        utilization=args.mfu,
        levers=levers(costs, prices) if recipe.model.preset == "paper" and recipe.stage > 1 else [],
    )


def build_parser() -> argparse.ArgumentParser:
    parser = train_parser()
    parser.prog, parser.description = "plan.py", __doc__
    parser.add_argument("--gpus", required=True, help="how many and which of jobs/planning/prices.yaml: 16xa100-80g")
    parser.add_argument(
        "--mfu",
        type=_share,
        default=PAPER_UTILIZATION,
        help="share of the GPUs' peak that a step reaches, recomputation counted (default: the paper's, %(default)s)",
    )
    parser.add_argument(
        "--text-tokens",
        type=int,
        default=TEXT_TOKENS,
        help="tokens of a prompt beside image and regions (default: %(default)s)",
    )
    return parser


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"found {text}; write a share of the peak, such as 0.18")
    return value


if __name__ == "__main__":
    sys.exit(main())
