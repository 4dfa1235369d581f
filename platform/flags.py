"""Types of command line flags that are numbers, with errors that say what to write."""

import argparse
import math


def count(text: str) -> int:
    """Parse a whole number above 0."""
    return _whole(text, 1, "a whole number above 0")


def whole(text: str) -> int:
    """Parse a whole number from 0."""
    return _whole(text, 0, "a whole number from 0")


def port(text: str) -> int:
    """Parse the number of a TCP port."""
    if (number := _whole(text, 1, wanted := "a whole number from 1 to 65535")) > 65535:
        raise _wrong(text, wanted)
    return number


def above_zero(text: str) -> float:
    """Parse a finite number above 0."""
    if not (number := _finite(text, wanted := "a number above 0")) > 0:
        raise _wrong(text, wanted)
    return number


def from_zero(text: str) -> float:
    """Parse a finite number from 0."""
    if not (number := _finite(text, wanted := "a number from 0")) >= 0:
        raise _wrong(text, wanted)
    return number


def _whole(text: str, least: int, wanted: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) < least:
        raise _wrong(text, wanted)
    return int(text)


def _finite(text: str, wanted: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise _wrong(text, wanted) from None
    if not math.isfinite(number):
        raise _wrong(text, wanted)
    return number


def _wrong(text: str, wanted: str) -> argparse.ArgumentTypeError:
    return argparse.ArgumentTypeError(f"found {text!r}; write {wanted}")
