"""Types of flags: numbers in their range, and sentences for everything else."""

import argparse
from collections.abc import Callable

import pytest

from fireedit.platform import flags


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (flags.count, "1", 1),
        (flags.whole, "0", 0),
        (flags.port, "65535", 65535),
        (flags.above_zero, "0.25", 0.25),
        (flags.from_zero, "0", 0.0),
    ],
)
def test_numbers_in_their_range_are_taken(kind: Callable[[str], float], text: str, value: float) -> None:
    assert kind(text) == value


@pytest.mark.parametrize(
    ("kind", "texts", "wanted"),
    [
        (flags.count, ["0", "-2", "1.5", "two", "", "²"], "a whole number above 0"),
        (flags.whole, ["-1", "x"], "a whole number from 0"),
        (flags.port, ["0", "65536", "99999", "-1"], "a whole number from 1 to 65535"),
        (flags.above_zero, ["0", "-1", "nan", "inf", "x"], "a number above 0"),
        (flags.from_zero, ["-0.5", "nan"], "a number from 0"),
    ],
)
def test_others_are_one_sentence(kind: Callable[[str], float], texts: list[str], wanted: str) -> None:
    for text in texts:
        with pytest.raises(argparse.ArgumentTypeError) as raised:
            kind(text)
        assert str(raised.value) == f"found {text!r}; write {wanted}"
