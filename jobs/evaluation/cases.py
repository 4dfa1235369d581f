"""What is asked of the editors: held-out edits by split and family, requests for what is not there, and sessions."""

import random
from dataclasses import dataclass

import numpy as np

from fireedit.platform.scenes import families
from fireedit.platform.scenes.edits import PLAIN, Edit
from fireedit.platform.scenes.render import Renderer
from fireedit.platform.scenes.scene import Box, Scene
from fireedit.platform.scenes.world import WORLDS, World

SPLITS = tuple(name for name in WORLDS if name != "train")
FAMILIES = (*families.FAMILIES, families.NO_OP)
TURNS = 3
_LOCAL_TURNS = 40
"""Tries to go on from a scene with an edit that leaves most of the picture as it is."""


@dataclass(frozen=True)
class Case:
    """One edit that is asked for."""

    split: str
    family: str
    number: int
    """In its split and family, from 0."""
    seed: int
    """Of the edit; editors draw their noise from it."""
    edit: Edit
    source: np.ndarray
    """uint8 RGB [S, S, 3]."""
    target: np.ndarray
    boxes: tuple[Box, ...]
    """Of all that stands in the source, also in its mirror: regions as a perfect proposer finds them."""

    @property
    def instruction(self) -> str:
        return self.edit.instruction


class Cases:
    """Draws the cases of splits, pictures of `side` pixels: 500 of every family within a minute."""

    def __init__(self, side: int):
        self.side, self.renderer = side, Renderer()

    def of(self, split: str, family: str, count: int) -> list[Case]:
        """The first `count` cases of a family; none if the split has no such edits."""
        world = WORLDS[split]
        if family not in families_of(split):
            return []
        return [
            self._case(world, family, number, families.make_edit(world, seed, family))
            for number, seed in enumerate(world.seeds[:count])
        ]

    def sessions(self, split: str, count: int) -> list[list[Case]]:
        """The first `count` sessions of `TURNS` local edits, each of which goes on from the one before.

        A split whose edits are all of families that change no given scene has none.
        """
        world = WORLDS[split]
        if not set(families_of(split)) & set(PLAIN):
            return []
        found: list[list[Edit]] = []
        for seed in world.seeds:
            if len(found) == count:
                break
            if (turns := session(world, seed)) is not None:
                found.append(turns)
        return [
            [self._case(world, f"session_{turn}", number, edit) for turn, edit in enumerate(turns, start=1)]
            for number, turns in enumerate(found)
        ]

    def _case(self, world: World, family: str, number: int, edit: Edit) -> Case:
        source, target = (self.renderer.draw(scene, self.side).image for scene in (edit.source, edit.target))
        seed = world.seeds[number]
        return Case(world.name, family, number, seed, edit, source, target, boxes=_boxes(edit.source))


def families_of(split: str) -> tuple[str, ...]:
    """The families that a split has edits of, and requests for what is not there unless it names all of them."""
    world = WORLDS[split]
    drawn = families.families_of(world)
    return drawn if world.families else (*drawn, families.NO_OP)


def session(world: World, seed: int) -> list[Edit] | None:
    """The turns of a seed, none of them about the whole picture; None if its scene has no room for so many."""
    rng = random.Random(seed)
    first = families.make_edit(world, seed, rng.choice([family for family in PLAIN if family in families.LOCAL]))
    turns = [first]
    while len(turns) < TURNS:
        tries = (families.follow_up(world, turns[-1].target, rng) for _ in range(_LOCAL_TURNS))
        turn = next((turn for turn in tries if turn is not None and _can_follow(turns, turn)), None)
        if turn is None:
            return None
        turns.append(turn)
    return turns


def _can_follow(turns: list[Edit], turn: Edit) -> bool:
    """Whether one can tell if a turn was done: it is local, and moves nothing whose place was left open before."""
    if turn.family not in families.LOCAL:
        return False
    new = {number for before in turns if before.operation in ("add", "replace") for number in before.edited}
    return turn.operation not in ("move", "resize") or new.isdisjoint(turn.edited)


def _boxes(scene: Scene) -> tuple[Box, ...]:
    boxes = [placed.box for placed in scene.objects] + ([scene.mirror.box] if scene.mirror else [])
    return tuple(tuple(min(max(edge, 0.0), 1.0) for edge in box) for box in boxes)  # type: ignore[misc]
