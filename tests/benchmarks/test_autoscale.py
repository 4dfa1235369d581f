"""The benchmark of autoscaling passes only where nodes come for the stage, work together, and go after it."""

import pytest

from fireedit.benchmarks.autoscale import Moment, judge

GOOD = [(0, 0), (1, 0), (2, 1), (2, 2), (2, 0), (1, 0), (0, 0)]
"""Nodes and busy ones, ten seconds after one another."""


def missed(course: list[tuple[int, int]], steps: int = 2) -> list[str]:
    moments = [Moment(10.0 * index, nodes, busy, 0) for index, (nodes, busy) in enumerate(course)]
    return [figure.name for figure in judge(moments, 35.0, steps, 2) if not figure.met]


def test_nodes_that_come_work_and_go_meet_all_bars() -> None:
    assert not missed(GOOD)
    moments = [Moment(10.0 * index, nodes, busy, 0) for index, (nodes, busy) in enumerate(GOOD)]
    times = {figure.name: figure.value for figure in judge(moments, 35.0, 2, 2) if figure.unit == "s"}
    assert list(times.values()) == [10, 20, 35, 25]


@pytest.mark.parametrize(
    ("course", "steps", "name"),
    [
        ([(1, 0), *GOOD[1:]], 2, "nodes before the job"),
        ([(0, 0), (1, 1), (0, 0)], 2, "nodes at most"),
        ([(nodes, min(busy, 1)) for nodes, busy in GOOD], 2, "nodes that held work at the same time"),
        (GOOD[:-1], 2, "nodes at the end"),
        ([*GOOD[:4], (1, 0), *GOOD[3:]], 2, "times that their number went up, then down"),
        (GOOD, 1, "steps trained"),
    ],
)
def test_a_course_with_a_fault_misses_a_bar(course: list[tuple[int, int]], steps: int, name: str) -> None:
    assert name in missed(course, steps)
