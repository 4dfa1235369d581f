"""Minimum figures (bars) for an editor of drawn scenes, and whether it meets them."""

from collections.abc import Iterator
from dataclasses import dataclass

from fireedit.jobs.evaluation.metrics import Interval
from fireedit.jobs.evaluation.scene_results import Results

SPLIT = "unseen_seeds"
"""Split of the bars of families, of L1 and of sessions."""
RELATIVE = {
    **dict.fromkeys(("remove", "recolor", "background", "style"), 0.8),
    **dict.fromkeys(
        ("replace", "add", "left_right", "relative_size", "color", "multiple", "reasoning", "ordinal"), 0.6
    ),
    **dict.fromkeys(("move", "resize", "mirror"), 0.4),
    "no_op": 0.9,
}
"""Least success of each family, relative to that of the true targets."""
L1_OUTSIDE = 0.005
"""Largest L1 outside the mask on edits of objects."""
GROWTH = 1.5
"""Largest ratio of the L1 outside all masks after the last turn of a session to that after the first."""
LAST_SCENE = 0.4
"""Least success of the last scenes of sessions."""
KNOWLEDGE, BASELINE = "knowledge", "instruct-pix2pix"
"""Split that only dialogue prepares for, and the row that reads instructions without the VLM."""
LEAD = 0.15
"""Least lead over BASELINE on KNOWLEDGE; its interval must be above 0 too."""


@dataclass(frozen=True)
class Bar:
    """Bar of one figure, and the figure measured."""

    name: str
    measured: Interval
    wanted: float
    is_limit: bool = False
    """True if the figure, an error, must be at most `wanted`; others are shares, which reports show in percent."""
    above: float = float("-inf")
    """Bound that the interval's lower end must exceed."""

    @property
    def met(self) -> bool:
        """False if nothing was measured."""
        mean = self.measured.mean  # NaN compares as False
        return (mean <= self.wanted if self.is_limit else mean >= self.wanted) and self.measured.low > self.above


def family_bars(results: Results) -> dict[str, Bar]:
    """Bars on the relative success of the last row in each family."""
    last, families = results.rows[-1].name, results.scores.get(SPLIT, {})
    return {family: Bar(family, results.relative(SPLIT, [family], last), RELATIVE[family]) for family in families}


def all_bars(results: Results) -> list[Bar]:
    """Bars of families, then of splits."""
    return [*family_bars(results).values(), *split_bars(results)]


def split_bars(results: Results) -> Iterator[Bar]:
    """Bars on whole splits, as far as these were measured."""
    last = results.rows[-1].name
    if SPLIT in results.scores and (outside := results.outside(SPLIT, last)).count:
        yield Bar("L1 outside the mask, edits of things", outside, L1_OUTSIDE, is_limit=True)
    if SPLIT in results.sessions:
        growth = results.growth(SPLIT, last)
        yield Bar("L1 outside all masks, last turn over first", growth, GROWTH, is_limit=True)
        yield Bar("success of the last scene of a session", results.last_scene(SPLIT, last), LAST_SCENE)
    if KNOWLEDGE in results.scores and BASELINE in {row.name for row in results.rows[:-1]}:
        lead = results.lead(KNOWLEDGE, list(results.scores[KNOWLEDGE]), last, BASELINE)
        yield Bar(f"{KNOWLEDGE}: lead over {BASELINE}, points", lead, LEAD, above=0.0)
