"""Conversion of masks to COCO's polygons: outlines along pixel edges, which pycocotools fills to the same pixels."""

from typing import TypeAlias

import numpy as np

Point: TypeAlias = tuple[int, int]


def polygons(mask: np.ndarray) -> list[list[float]]:
    """Trace the outlines x, y, x, y, ... of an [H, W] bool mask; a part with a hole is cut in two."""
    loops = _loops(mask)
    holes = [loop for loop in loops if _signed_area(loop) > 0]
    if not holes:
        return [[float(value) for point in loop for value in point] for loop in loops]
    columns = [x for x, _ in holes[0]]
    cut = (min(columns) + max(columns)) // 2
    left, right = mask.copy(), mask.copy()
    left[:, cut:] = False
    right[:, :cut] = False
    return polygons(left) + polygons(right)


def _loops(mask: np.ndarray) -> list[list[Point]]:
    """Trace all borders of the mask as closed walks with the mask on their left."""
    steps, loops = _steps(mask), []
    while steps:
        walk = [next(iter(steps))]
        while len(walk) == 1 or walk[-1] != walk[0]:
            walk.append(_step(steps, walk))
        loops.append(_corners(walk[:-1]))
    return loops


def _steps(mask: np.ndarray) -> dict[Point, list[Point]]:
    """Map each point on a border to the points that one pixel edge leads to."""
    around = np.pad(mask, 1)
    sides = (
        (around[:-2, 1:-1], (1, 0), (0, 0)),
        (around[2:, 1:-1], (0, 1), (1, 1)),
        (around[1:-1, :-2], (0, 0), (0, 1)),
        (around[1:-1, 2:], (1, 1), (1, 0)),
    )
    steps: dict[Point, list[Point]] = {}
    for neighbor, first, last in sides:
        for y, x in np.argwhere(mask & ~neighbor).tolist():
            steps.setdefault((x + first[0], y + first[1]), []).append((x + last[0], y + last[1]))
    return steps


def _step(steps: dict[Point, list[Point]], walk: list[Point]) -> Point:
    """Follow one edge on; where two pixels touch at a corner only, the one that keeps them apart."""
    here = walk[-1]
    ways = steps[here]
    way = ways[0]
    if len(ways) > 1 and len(walk) > 1:
        before = walk[-2]
        across, down = here[0] - before[0], here[1] - before[1]
        way = next((point for point in ways if (point[0] - here[0], point[1] - here[1]) == (down, -across)), way)
    ways.remove(way)
    if not ways:
        del steps[here]
    return way


def _corners(walk: list[Point]) -> list[Point]:
    """Keep the points at which a closed walk turns."""
    around = zip(walk[-1:] + walk[:-1], walk, walk[1:] + walk[:1], strict=True)
    return [
        here for last, here, after in around if not (last[0] == here[0] == after[0] or last[1] == here[1] == after[1])
    ]


def _signed_area(loop: list[Point]) -> int:
    """Compute twice the area inside a loop, negative for an outline and positive for a hole."""
    return sum(ax * by - bx * ay for (ax, ay), (bx, by) in zip(loop[-1:] + loop[:-1], loop, strict=True))
