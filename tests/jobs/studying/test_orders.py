"""Orders: every method at every place equally often, and the test that says so."""

import numpy as np
import pytest

from fireedit.jobs.studying.orders import picture_order, question_order, uniform_chi_square


@pytest.mark.parametrize("methods", [2, 3, 7])
def test_methods_stand_everywhere_equally_often(methods: int) -> None:
    for first in range(2 * methods):
        for question in (0, 5, 29):
            block = range(first // methods * methods, first // methods * methods + methods)
            assert_latin([picture_order("k", methods, participant, question) for participant in block])
        block = range(methods, 2 * methods)
        assert_latin([picture_order("k", methods, first, question) for question in block])


def assert_latin(orders: list[list[int]]) -> None:
    for column in zip(*orders, strict=True):
        assert sorted(column) == list(range(len(orders)))
    assert all(sorted(order) == list(range(len(orders))) for order in orders)


def test_orders_depend_on_the_key_and_stay() -> None:
    orders = {tuple(picture_order(key, 7, 3, 4)) for key in "abcdefgh"}
    assert len(orders) > 4 and picture_order("a", 7, 3, 4) == picture_order("a", 7, 3, 4)
    assert sorted(question_order("a", 30, 2)) == list(range(30))
    assert len({tuple(question_order("a", 30, number)) for number in range(40)}) == 40


def test_neighbors_change() -> None:
    """Pairs of neighbors of the paper's 40 x 30 questions: each of 42 comes 171 times on average."""
    pairs = np.zeros((7, 7), int)
    for participant in range(40):
        for question in range(30):
            order = picture_order("k", 7, participant, question)
            for left, right in zip(order, order[1:], strict=False):
                pairs[left, right] += 1
    apart = pairs[~np.eye(7, dtype=bool)]
    assert apart.sum() == 7200 and apart.min() > 40 and apart.max() < 340


def test_chi_square_is_pearsons() -> None:
    even = uniform_chi_square([[5, 5], [5, 5]])
    assert (even.statistic, even.freedom, even.p) == (0, 1, 1)
    dice = uniform_chi_square([5, 8, 9, 8, 10, 20])
    assert dice.statistic == pytest.approx(13.4) and dice.freedom == 5 and dice.p == pytest.approx(0.0199, abs=1e-4)
    assert np.isnan(uniform_chi_square([0, 0]).statistic)
