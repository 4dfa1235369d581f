"""Open-loop load: arrival times can be repeated, and every request is counted once."""

import itertools

import numpy as np

from fireedit.benchmarks.serving.arrivals import Tally, arrivals
from fireedit.benchmarks.serving.client import Answer
from fireedit.benchmarks.serving.edits import Edit

EDIT, PICTURE = Edit(b"", "make it red", 0, ()), np.zeros((4, 4, 3), np.uint8)


def test_arrivals_are_the_same_for_a_seed_and_keep_their_rate() -> None:
    first, again, other = (list(itertools.islice(arrivals(2.0, seed), 4000)) for seed in (1, 1, 2))
    assert first == again != other
    assert 1800 < first[-1] < 2200
    assert np.all(np.diff(first) >= 0)


def test_requests_without_a_picture_are_lost_and_attempts_before_an_answer_are_not() -> None:
    tally, busy = Tally(), Answer(0, failure="refused")
    tally.add(EDIT, PICTURE, "a", [busy, busy, busy, Answer(500, body=b"x")])
    assert len(tally.lost) == tally.beyond_openai == tally.bare == 1
    assert dict(tally.retried) == {"refused": 3} and not tally.answered_at
