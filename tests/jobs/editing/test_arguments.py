"""Arguments of edit.py that contradict one another, or would be ignored."""

import argparse

import pytest

from fireedit.jobs.edit import build_parser
from fireedit.jobs.editing.arguments import FOR_MANY, check_arguments


def parsed(*argv: str) -> argparse.Namespace:
    return build_parser().parse_args(argv)


def test_arguments_that_fit_pass() -> None:
    check_arguments(parsed("a.png", "make it red", "--format", "jpeg"), many=False)
    check_arguments(parsed("a.png", "--instruction", "make it red", "--format", "jpeg", "--out", "a.jpeg"), many=False)
    check_arguments(parsed("DIR", "--instructions", "x.csv", "--out", "OUT", "--retry-failed"), many=True)


@pytest.mark.parametrize(
    ("argv", "many", "words"),
    [
        (["a.png"], False, "a.png: found no instruction; write one behind the picture"),
        (["DIR", "x"], True, "DIR: found no --out; write a folder"),
        (["DIR", "x", "--out", "OUT", "--mask", "m.png"], True, "DIR: --mask is for one picture; leave it out"),
        (["DIR", "x", "--instruction", "y", "--out", "OUT"], True, "--instruction: found 'y' beside 'x'; write one"),
    ],
)
def test_others_are_refused(argv: list[str], many: bool, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_arguments(parsed(*argv), many)


def test_every_argument_for_many_is_known() -> None:
    assert set(FOR_MANY) <= set(vars(parsed("a.png")))
