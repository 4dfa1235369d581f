"""Figures that papers print for the sets of evaluations, by set, table and system."""

from collections.abc import Mapping

from fireedit.jobs.evaluation.sets.emu_edit import ALL
from fireedit.jobs.evaluation.sets.magicbrush import MULTI, SINGLE

FIREEDIT = "FireEdit, as published (arXiv 2503.19839)"
MAGICBRUSH = "MagicBrush, as published (arXiv 2306.10012)"


def _magicbrush(l1: float, l2: float, clip_i: float, dino: float) -> dict[str, float]:
    return {"l1": l1, "l2": l2, "clip_i": clip_i, "dino": dino}


PUBLISHED: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]] = {
    "emu-edit-3589": {
        ALL: {FIREEDIT: {"l1": 0.0574, "clip_i": 0.9140, "dino": 0.8829, "lpips": 0.1373, "clip_t": 0.2783}}
    },
    "magicbrush-test": {
        SINGLE: {FIREEDIT: _magicbrush(0.0701, 0.0238, 0.9131, 0.8619)},
        MULTI: {
            FIREEDIT: _magicbrush(0.0911, 0.0326, 0.8819, 0.8010),
            MAGICBRUSH: _magicbrush(0.0964, 0.0353, 0.8924, 0.8273),
        },
    },
}
