"""Bars that the last row of a benchmark is held to, and whether it meets them."""

from collections.abc import Iterator
from dataclasses import dataclass

from fireedit.jobs.evaluation.metrics import Interval
from fireedit.jobs.evaluation.results import Results

SPLIT = "unseen_seeds"
"""The split that the bars of families, of L1 and of sessions are about."""
RELATIVE = {
    **dict.fromkeys(("remove", "recolor", "background", "style"), 0.8),
    **dict.fromkeys(
        ("replace", "add", "left_right", "relative_size", "color", "multiple", "reasoning", "ordinal"), 0.6
    ),
    **dict.fromkeys(("move", "resize", "mirror"), 0.4),
    "no_op": 0.9,
}
"""By family, the least success relative to that of the true targets."""
L1_OUTSIDE = 0.005
"""The most, on edits of things."""
GROWTH = 1.5
"""The most that L1 outside all masks may grow from the first turn of a session to the last."""
LAST_SCENE = 0.4
"""The least success of the last scenes of sessions."""
KNOWLEDGE, BASELINE = "knowledge", "ip2p"
"""The split that only dialogue prepares for, and the row that has had none."""
LEAD = 0.15
"""The least lead over BASELINE on KNOWLEDGE; its interval must lie above 0 too."""


@dataclass(frozen=True)
class Bar:
    """One bar, and how far the row comes."""

    name: str
    found: Interval
    wanted: float
    is_limit: bool = False
    """Whether less is better."""
    above: float = float("-inf")
    """The interval must lie above it."""
    is_share: bool = True
    """Whether it is told in percent."""

    @property
    def met(self) -> bool:
        """False if nothing was measured."""
        mean = self.found.mean  # NaN compares as False
        return (mean <= self.wanted if self.is_limit else mean >= self.wanted) and self.found.low > self.above


def family_bars(results: Results) -> dict[str, Bar]:
    """Relative success of the last row in the families that were asked for."""
    last, families = results.rows[-1].name, results.scores.get(SPLIT, {})
    return {
        family: Bar(family, results.relative(SPLIT, [family], last), RELATIVE[family])
        for family in families
        if family in RELATIVE
    }


def other_bars(results: Results) -> list[Bar]:
    """Bars of whole splits, those of them that were asked for."""
    return list(_others(results, results.rows[-1].name))


def all_bars(results: Results) -> list[Bar]:
    return [*family_bars(results).values(), *other_bars(results)]


def _others(results: Results, last: str) -> Iterator[Bar]:
    outside = results.outside(SPLIT, last) if SPLIT in results.scores else None
    if outside is not None and outside.count:
        yield Bar("L1 outside the mask, edits of things", outside, L1_OUTSIDE, is_limit=True, is_share=False)
    if SPLIT in results.sessions:
        growth = results.growth(SPLIT, last)
        yield Bar("L1 outside all masks, last turn over first", growth, GROWTH, is_limit=True, is_share=False)
        yield Bar("success of the last scene of a session", results.last_scene(SPLIT, last), LAST_SCENE)
    if KNOWLEDGE in results.scores and BASELINE in {row.name for row in results.rows[:-1]}:
        lead = results.lead(KNOWLEDGE, list(results.scores[KNOWLEDGE]), last, BASELINE)
        yield Bar(f"{KNOWLEDGE}: lead over {BASELINE}, points", lead, LEAD, above=0.0)
