"""Masks as COCO's polygons: outlines along the edges of pixels, which pycocotools fills to the very same pixels."""

from typing import TypeAlias

import numpy as np

Point: TypeAlias = tuple[int, int]


def polygons(mask: np.ndarray) -> list[list[float]]:
    """Outlines x, y, x, y, ... of an [H, W] bool mask; where it has a hole it is cut in two, for polygons have none."""
    loops = _loops(mask)
    holes = [loop for loop in loops if _turn(loop) > 0]
    if not holes:
        return [[float(value) for point in loop for value in point] for loop in loops]
    columns = [x for x, _ in holes[0]]
    cut = (min(columns) + max(columns)) // 2
    left, right = mask.copy(), mask.copy()
    left[:, cut:] = False
    right[:, :cut] = False
    return polygons(left) + polygons(right)


def _loops(mask: np.ndarray) -> list[list[Point]]:
    """All borders of the mask as closed walks with the mask on their left."""
    steps = _steps(mask)
    loops = []
    while steps:
        start = next(iter(steps))
        walk, here, before = [start], _step(steps, start, None), start
        while here != start:
            walk.append(here)
            here, before = _step(steps, here, before), here
        loops.append(_corners(walk))
    return loops


def _steps(mask: np.ndarray) -> dict[Point, list[Point]]:
    """From each point on a border, the points that one edge of a pixel leads to."""
    around = np.pad(mask, 1)
    sides = (
        (around[:-2, 1:-1], (1, 0), (0, 0)),
        (around[2:, 1:-1], (0, 1), (1, 1)),
        (around[1:-1, :-2], (0, 0), (0, 1)),
        (around[1:-1, 2:], (1, 1), (1, 0)),
    )
    steps: dict[Point, list[Point]] = {}
    for neighbour, first, last in sides:
        for y, x in np.argwhere(mask & ~neighbour).tolist():
            steps.setdefault((x + first[0], y + first[1]), []).append((x + last[0], y + last[1]))
    return steps


def _step(steps: dict[Point, list[Point]], here: Point, before: Point | None) -> Point:
    """Take one edge; where two pixels touch at a corner only, the one that keeps them apart."""
    ways = steps[here]
    way = ways[0]
    if len(ways) > 1 and before is not None:
        across, down = here[0] - before[0], here[1] - before[1]
        way = next((one for one in ways if (one[0] - here[0], one[1] - here[1]) == (down, -across)), way)
    ways.remove(way)
    if not ways:
        del steps[here]
    return way


def _corners(walk: list[Point]) -> list[Point]:
    """The points at which a closed walk turns."""
    around = zip(walk[-1:] + walk[:-1], walk, walk[1:] + walk[:1], strict=True)
    return [
        here for last, here, after in around if not (last[0] == here[0] == after[0] or last[1] == here[1] == after[1])
    ]


def _turn(loop: list[Point]) -> int:
    """Twice the area that a loop goes round, below 0 for an outline and above for a hole."""
    return sum(one[0] * other[1] - other[0] * one[1] for one, other in zip(loop[-1:] + loop[:-1], loop, strict=True))
