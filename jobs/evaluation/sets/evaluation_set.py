"""Published sets of edits as evaluations use them: the pictures to paint, and those to compare with what."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Turn:
    """Edit of one picture."""

    output: str
    """File that it makes, below the folder of an evaluation's pictures."""
    instruction: str
    source: str
    """Address of the picture that is edited; of a `chained` turn, the output of the turn before."""
    chained: bool = False
    target: str = ""
    """Address of the true result, which the bound `vae` reconstructs; empty where there is none."""
    seed: int = 0
    """Added to the evaluation's seed of the noise, where every edit has its own."""
    boxes: Sequence[Sequence[float]] | None = None
    """True regions of the source, xyxy in [0, 1], where they are known."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Output and all that its measures compare it with."""

    table: str
    """Protocol or category whose mean it counts in."""
    unit: str
    """Session or edit that a bootstrap draws, with all its turns."""
    output: str
    """File below the folder of pictures."""
    reference: str
    """Address of the picture that it is compared with."""
    source: str = ""
    """Address of the picture before the edit, for the directional similarity; empty where that is not measured."""
    caption: str = ""
    """Text that the output should fit, for CLIP-T."""
    global_caption: str = ""
    """Caption of the whole target, where `caption` is that of the edited part."""
    source_caption: str = ""
    mask: str = ""
    """Address of the mask of the edited region: pixels are compared outside it, and the noun inside."""
    noun: str = ""
    case: str = ""
    """Drawn edit that the scene reader judges, as `scenes.case_key` writes it."""


@dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """Set of edits, with the protocol by which it is measured."""

    name: str
    """Name in tables, such as `magicbrush-test`."""
    fingerprint: str
    """Hash of what its pictures depend on."""
    turns: Sequence[Turn] = field(repr=False)
    comparisons: Sequence[Comparison] = field(repr=False)
    columns: Sequence[str]
    """Measures, of those in `measuring.COLUMNS`."""
    totals: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Tables that take the comparisons of several tables together, by name."""
    partial: bool = False
    """True for fewer edits than the published set has."""

    @property
    def chains(self) -> list[list[Turn]]:
        """Group turns that must be painted one after the other."""
        chains: list[list[Turn]] = []
        for turn in self.turns:
            if turn.chained:
                chains[-1].append(turn)
            else:
                chains.append([turn])
        return chains


class SetError(ValueError):
    """Set that cannot be evaluated; the message says what is missing."""
