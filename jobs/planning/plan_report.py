"""Report of a plan: plain values for a job's last line, and tables for a person."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from fireedit.jobs.planning.choices import MARGIN, MICRO_BATCHES, Choice, Choices
from fireedit.jobs.planning.costs import Cost
from fireedit.jobs.planning.instances import GB
from fireedit.jobs.planning.levers import PAPER_HOURS, TARGET_HOURS, Lever
from fireedit.jobs.planning.memory import Memory

STATE = ("frozen", "trained", "gradients", "masters", "moments", "averages", "buckets")
"""Parts of the memory that no micro-batch changes."""
ACTIVATIONS = ("saved", "logits", "temporary")
TERA = 1e12


@dataclass(frozen=True)
class PartFlops:
    """TFLOP a sample of one part of the model."""

    part: str
    forward: float
    backward: float
    recomputed: float
    """Second forward pass of gradient checkpointing."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Finished plan of one recipe on one cluster."""

    choices: Choices
    own: Choice
    """Setting of the recipe."""
    own_cost: Cost
    recommended: Choice | None
    recommended_cost: Cost | None
    utilization: float
    """Share of the GPUs' peak."""
    levers: Sequence[Lever]
    """Empty but for the paper's stages 2 and 3."""


def part_flops(choices: Choices) -> list[PartFlops]:
    """List the FLOPs of every part, most first."""
    plain, checkpointed = choices.costs[False].flops, choices.costs[True].flops

    def of(part: str) -> PartFlops:
        forward, backward = (plain.get((phase, part), 0.0) / TERA for phase in ("forward", "backward"))
        return PartFlops(part, forward, backward, checkpointed.get(("backward", part), 0.0) / TERA - backward)

    return sorted(map(of, {part for _, part in plain}), key=lambda each: -each.forward - each.backward)


def to_json(plan: Plan) -> dict[str, Any]:
    """Convert a plan to plain values; memory in GB, FLOPs in 1e12."""
    choices = plan.choices
    recipe, cluster = choices.recipe, choices.cluster
    return {
        "config": recipe.model.preset,
        "stage": recipe.stage,
        "gpus": f"{cluster.gpus}x{cluster.name}",
        "samples_per_step": recipe.samples_per_step,
        "tokens": choices.costs[False].tokens,
        "weights": asdict(choices.weights),
        "fits": plan.own.fits(cluster),
        "setting": _detailed(plan.own),
        "recommended": plan.recommended and _detailed(plan.recommended),
        "memory": [_brief(choice) for choice in choices.all()],
        "flops": {each.part: [each.forward, each.backward, each.recomputed] for each in part_flops(choices)},
        "utilization": plan.utilization,
        "cost": asdict(plan.own_cost),
        "recommended_cost": plan.recommended_cost and asdict(plan.recommended_cost),
        "levers": [asdict(lever) for lever in plan.levers],
    }


def to_text(plan: Plan) -> Iterator[str]:
    """Format a plan as lines for a person."""
    recipe, cluster = plan.choices.recipe, plan.choices.cluster
    yield f"{recipe.model.preset} stage {recipe.stage} on {cluster.gpus} {cluster.name}: {cluster.hardware}"
    yield (
        f"{recipe.samples_per_step} samples a step, prompts of {plan.choices.costs[False].tokens} tokens with as many "
        "regions as they take; measured on one small batch"
    )
    yield from _memory_lines(plan)
    yield from _flop_lines(part_flops(plan.choices))
    yield from _cost_lines(plan)
    if plan.levers:
        yield from _lever_lines(plan.levers)


def _memory_lines(plan: Plan) -> Iterator[str]:
    choices = list(plan.choices.all())
    levels = sorted({choice.zero for choice in choices})
    yield ""
    yield _row("GB of a GPU", *STATE, "sum")
    for zero in levels:
        memory = next(choice.memory for choice in choices if choice.zero == zero)
        values = [getattr(memory, name) for name in STATE]
        yield _row(_level(zero), *(f"{value / GB:.2f}" for value in (*values, sum(values))))
    yield ""
    yield _row("micro-batch", *MICRO_BATCHES)
    for checkpointing in (False, True):
        alike = [each for each in choices if (each.zero, each.checkpointing) == (levels[0], checkpointing)]
        for name in ACTIVATIONS:
            cells = (f"{getattr(each.memory, name) / GB:.2f}" for each in alike)
            yield _row(f"{name}, {_checkpointing(checkpointing)}", *cells)
    for zero in levels:
        for checkpointing in (False, True):
            alike = [each for each in choices if (each.zero, each.checkpointing) == (zero, checkpointing)]
            yield _row(f"all, {_level(zero)} {_checkpointing(checkpointing)}", *(_cell(each, plan) for each in alike))
    yield "  with and without gradient checkpointing"
    yield f"  * the recipe's, > recommended: fastest that leaves {MARGIN:.0%} free, ! leaves less"


def _flop_lines(flops: Sequence[PartFlops]) -> Iterator[str]:
    yield ""
    yield _row("TFLOP a sample", "forward", "backward", "recomputed")
    for each in flops:
        yield _row(each.part, *(f"{value:.4f}" for value in (each.forward, each.backward, each.recomputed)))
    sums = (sum(getattr(each, field.name) for each in flops) for field in fields(PartFlops)[1:])
    yield _row("all", *(f"{value:.4f}" for value in sums))


def _cost_lines(plan: Plan) -> Iterator[str]:
    yield ""
    yield f"at {plan.utilization:.0%} of the GPUs' peak, recomputation counted"
    yield f"the recipe: {plan.own.overrides}"
    yield from _price_lines(plan.own_cost)
    if plan.recommended is not None and plan.recommended_cost is not None and plan.recommended != plan.own:
        yield f"recommended: {plan.recommended.overrides}"
        yield from _price_lines(plan.recommended_cost)
    cost = plan.own_cost
    checkpoint, weights = f"{cost.checkpoint_bytes / GB:.2f}", f"{cost.weights_bytes / GB:.2f}"
    yield (
        f"storage: {checkpoint} GB a checkpoint, weights of {weights} GB, shards of {cost.shards_bytes / GB:,.0f} GB: "
        f"${cost.storage_dollars_month:,.0f} a month"
    )


def _price_lines(cost: Cost) -> Iterator[str]:
    spot = "no spot price listed" if cost.spot is None else f"${cost.spot:,.0f} spot"
    yield f"  {cost.step_s:.2f} s a step, {cost.samples_per_s:.1f} samples/s; {cost.steps:,} steps: {cost.hours:.1f} h"
    yield f"  {cost.gpu_hours:,.0f} GPU-hours: ${cost.on_demand:,.0f} on demand, {spot}"
    nodes = f"{cost.cpu_nodes} CPU nodes more (${cost.cpu_dollars:,.0f})" if cost.cpu_nodes else "no CPU node more"
    yield f"  decoding takes {cost.decoding_cores:.1f} cores: {nodes}"


def _lever_lines(levers: Sequence[Lever]) -> Iterator[str]:
    published = levers[0]
    fewest = min((lever for lever in levers if lever.gpus == published.gpus), key=lambda lever: lever.tflop)
    yield ""
    title = f"stages 2 and 3 of the paper ({PAPER_HOURS:.0f} h published)"
    yield f"{title:54s}{'TFLOP':>7s}{'of peak':>9s}{'h':>7s}"
    for lever in levers:
        assumed = "  share of the peak assumed" if lever.assumed else ""
        yield f"  {lever.name:52s}{lever.tflop:7.2f}{lever.utilization:9.0%}{lever.hours:7.1f}{assumed}"
    for hours, lever in ((PAPER_HOURS, published), (TARGET_HOURS, fewest)):
        share = lever.utilization * lever.hours / hours
        yield f"  {hours:.0f} h on {lever.gpus} at {lever.tflop:.2f} TFLOP are {share:.1%} of the peak"


def _cell(choice: Choice, plan: Plan) -> str:
    marks = "*" * (choice == plan.own) + ">" * (choice == plan.recommended)
    return f"{marks}{'' if choice.fits(plan.choices.cluster) else '!'}{choice.memory.total / GB:.1f}"


def _brief(choice: Choice) -> dict[str, Any]:
    setting = {"zero": choice.zero, "micro_batch": choice.micro_batch, "checkpointing": choice.checkpointing}
    return {**setting, "gb": choice.memory.total / GB}


def _detailed(choice: Choice) -> dict[str, Any]:
    parts = {field.name: getattr(choice.memory, field.name) / GB for field in fields(Memory)}
    return {**_brief(choice), "accumulate": choice.accumulate, "parts": parts, "overrides": choice.overrides}


def _row(label: str, *cells: object) -> str:
    return f"{label:22s}" + "".join(f"{cell!s:>11s}" for cell in cells)


def _level(zero: int) -> str:
    return f"ZeRO {zero}" if zero else "unsharded"


def _checkpointing(checkpointing: bool) -> str:
    return "with" if checkpointing else "without"
