"""Open-loop load: requests leave at times of their own, whether or not earlier ones are answered."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from fireedit.benchmarks.serving.client import Answer, send_until_answered
from fireedit.benchmarks.serving.edits import Edit

PATIENCE_S = 120.0
"""Seconds for which a client repeats a request."""
OPENAI_RETRIES = 2
"""Repetitions of OpenAI's client by default."""
BURSTS = 0.5
"""Shape of the gamma distribution of gaps; 1 would be a Poisson process, less comes in bursts."""


def arrivals(rate: float, seed: int = 0) -> Iterator[float]:
    """Yield arrival times in seconds, `rate` a second on average and in bursts; equal for equal seeds."""
    chance, now = random.Random(seed), 0.0
    while True:
        now += chance.gammavariate(BURSTS, 1 / (BURSTS * rate))
        yield now


@dataclass
class Tally:
    """Count of what became of every request."""

    sent: int = 0
    lost: list[str] = field(default_factory=list)
    """Outcomes of requests that were never answered with a picture."""
    wrong: int = 0
    """Pictures that differ from the one made alone."""
    duplicated: int = 0
    """Answers with the id of another request, or of one that was answered before."""
    retried: Counter[str] = field(default_factory=Counter)
    """Failed attempts that were repeated, by outcome."""
    beyond_openai: int = 0
    """Requests that took more repetitions than OpenAI's client makes by default."""
    bare: int = 0
    """Responses outside the envelope."""
    answered_at: list[float] = field(default_factory=list)
    """Times of answers, seconds of `time.monotonic()`."""
    seconds: list[float] = field(default_factory=list)
    """Seconds of each answered request, its repetitions included."""
    ids: set[str] = field(default_factory=set)

    def add(self, edit: Edit, expected: np.ndarray, name: str, answers: Sequence[Answer]) -> None:
        """Count one request with all of its attempts."""
        *failed, last = answers
        self.retried.update(answer.outcome for answer in failed)
        self.beyond_openai += len(failed) > OPENAI_RETRIES
        self.bare += sum(bool(answer.status) and not answer.in_envelope for answer in answers)
        if last.status != 200:
            self.lost.append(f"{last.outcome} {last.body[:200].decode(errors='replace')}")
            return
        self.wrong += not edit.is_answered_by(last, expected)
        given = last.headers.get("x-request-id", "")
        self.duplicated += given != name or given in self.ids
        self.ids.add(given)
        self.answered_at.append(time.monotonic())
        self.seconds.append(sum(answer.seconds for answer in answers))

    def answered_between(self, begin: float, end: float) -> int:
        """Count answers within a span of time."""
        return sum(begin <= at <= end for at in self.answered_at)


class OpenLoad:
    """Steady load of edits with known answers.

    Args:
        retries: repetitions of a request; None repeats for PATIENCE_S.
    """

    def __init__(self, url: str, asked: Sequence[Edit], expected: Sequence[np.ndarray], rate: float):
        self.url, self.rate, self.tally = url, rate, Tally()
        self._pool = list(zip(asked, expected, strict=True))

    async def run(self, stop: asyncio.Event, least: int = 0, retries: int | None = None) -> Tally:
        """Send until `stop` is set and at least so many were sent; then wait for the last answer."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number, at in enumerate(arrivals(self.rate)):
                await asyncio.sleep(max(0.0, began + at - time.monotonic()))
                if stop.is_set() and number >= least:
                    break
                group.create_task(self._one(number, retries))
        return self.tally

    async def _one(self, number: int, retries: int | None) -> None:
        edit, expected = self._pool[number % len(self._pool)]
        name = f"load-{number}"
        self.tally.sent += 1
        data = edit.request({"x-request-id": name})
        self.tally.add(edit, expected, name, await send_until_answered(self.url, data, PATIENCE_S, retries))
