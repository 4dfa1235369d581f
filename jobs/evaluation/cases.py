"""Held-out edits of drawn scenes: single edits by split and family, no-ops, and sessions of several turns."""

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fireedit.models.editors.editor import Editor
from fireedit.platform.scenes import families
from fireedit.platform.scenes.edits import PLAIN, Edit
from fireedit.platform.scenes.render import draw_scene
from fireedit.platform.scenes.scene import Box, Scene
from fireedit.platform.scenes.world import WORLDS, World

SPLITS = tuple(name for name in WORLDS if name != "train")
FAMILIES = (*families.FAMILIES, families.NO_OP)
TURNS = 3
"""Edits of a session."""
LOCAL_TRIES = 40
"""Follow-up edits drawn from a scene until one of them is local."""


@dataclass(frozen=True)
class EditCase:
    """Held-out edit with its rendered source and target."""

    split: str
    family: str
    """Family of the edit; a turn of a session is called `session_` and its number from 1."""
    seed: int
    """Seed of the edit, from which editors draw their noise too."""
    edit: Edit
    source: np.ndarray
    """uint8 RGB [S, S, 3]."""
    target: np.ndarray
    """uint8 RGB [S, S, 3]."""
    boxes: tuple[Box, ...]
    """Boxes of all objects of the source, reflections and the mirror included: the regions of a perfect detector."""

    @property
    def instruction(self) -> str:
        return self.edit.instruction


class Cases:
    """Generator of the cases of every split at `side` pixels; 500 of every family take about a minute."""

    def __init__(self, side: int):
        self.side = side

    def of(self, split: str, family: str, count: int) -> list[EditCase]:
        """Draw the first `count` cases of a family; none if the split has no such edits."""
        if family not in families_of(split):
            return []
        return [self.case(split, family, seed) for seed in WORLDS[split].seeds[:count]]

    def case(self, split: str, family: str, seed: int) -> EditCase:
        """Draw the case of a seed."""
        return self._case(split, family, seed, families.make_edit(WORLDS[split], seed, family))

    def sessions(self, split: str, count: int) -> list[list[EditCase]]:
        """Draw the first `count` sessions of `TURNS` local edits, each of which edits the target of the one before.

        A split without edits that apply to a given scene has none.
        """
        if not set(families_of(split)) & set(PLAIN):
            return []
        sessions = (turns for seed in WORLDS[split].seeds if (turns := self.session(split, seed)))
        return list(itertools.islice(sessions, count))

    def session(self, split: str, seed: int) -> list[EditCase]:
        """Draw the session of a seed; empty if its scene leaves no room for `TURNS` edits."""
        turns = session(WORLDS[split], seed) or []
        return [self._case(split, f"session_{turn}", seed, edit) for turn, edit in enumerate(turns, start=1)]

    def _case(self, split: str, family: str, seed: int, edit: Edit) -> EditCase:
        source, target = (draw_scene(scene, self.side).image for scene in (edit.source, edit.target))
        return EditCase(split, family, seed, edit, source, target, boxes=_boxes(edit.source))


def families_of(split: str) -> tuple[str, ...]:
    """List the families of a split, no-ops included unless the split declares all of its families."""
    world = WORLDS[split]
    names = families.families_of(world)
    return names if world.families else (*names, families.NO_OP)


def session(world: World, seed: int) -> list[Edit] | None:
    """Draw the local edits of a seed's session; None if its scene leaves no room for `TURNS` of them."""
    rng = random.Random(seed)
    first = families.make_edit(world, seed, rng.choice([family for family in PLAIN if family in families.LOCAL]))
    turns = [first]
    while len(turns) < TURNS:
        tries = (families.follow_up(world, turns[-1].target, rng) for _ in range(LOCAL_TRIES))
        turn = next((turn for turn in tries if turn is not None and _can_follow(turns, turn)), None)
        if turn is None:
            return None
        turns.append(turn)
    return turns


def edit_cases(editor: Editor, cases: Sequence[EditCase]) -> np.ndarray:
    """Edit cases by the editor's own settings, each from noise of its own seed, to uint8 RGB [B, S, S, 3]."""
    texts, seeds = [case.instruction for case in cases], [case.seed for case in cases]
    return np.stack(editor.edit([case.source for case in cases], texts, seeds, editor.settings))


def stacked(cases: Sequence[EditCase], name: Literal["source", "target"]) -> np.ndarray:
    """Stack the sources or targets of cases, uint8 RGB [B, S, S, 3]."""
    return np.stack([getattr(case, name) for case in cases])


def _can_follow(turns: list[Edit], turn: Edit) -> bool:
    """Return whether a turn can be judged: it is local and moves no object whose place an earlier turn left open."""
    if turn.family not in families.LOCAL:
        return False
    added = {number for before in turns if before.operation in ("add", "replace") for number in before.edited}
    return turn.operation not in ("move", "resize") or added.isdisjoint(turn.edited)


def _boxes(scene: Scene) -> tuple[Box, ...]:
    boxes = [placed.box for placed in scene.objects] + ([scene.mirror.box] if scene.mirror else [])
    return tuple(tuple(min(max(edge, 0.0), 1.0) for edge in box) for box in boxes)  # type: ignore[misc]
