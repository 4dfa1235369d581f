"""Progress of an edit, and its way to a reader who may be slow. Imports no torch."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Progress:
    """State of an edit that is not done."""

    step: int
    """Denoising steps that are done."""
    steps: int
    position: int
    """Edits that come before it while it waits; 0 when it runs."""
    images: list[np.ndarray] | None = None
    """Canvases uint8 RGB [S, S, 3], one per seed, after a step with partial pictures; else None."""


def partial_steps(steps: int, count: int) -> set[int]:
    """Spread partial pictures evenly over the steps; returns the steps that they follow, never the last one.

    Fewer steps than partial pictures leave one picture for each step before the last.
    """
    return {(index + 1) * steps // (count + 1) for index in range(count)} - {0, steps}


class Mailbox:
    """Progress that was not read yet: the latest one, and all with partial pictures."""

    def __init__(self) -> None:
        self._unread: deque[Progress] = deque()
        self._news = asyncio.Event()

    def post(self, progress: Progress) -> None:
        """Add progress in place of an older one without pictures."""
        if self._unread and self._unread[-1].images is None:
            self._unread.pop()
        self._unread.append(progress)
        self._news.set()

    async def read(self, end: "asyncio.Future[Any]", idle_s: float | None = None) -> AsyncGenerator[Progress | None]:
        """Yield progress until `end` is done and everything read; None after every `idle_s` without news."""
        end.add_done_callback(lambda _: self._news.set())
        while self._unread or not end.done():
            if self._unread:
                yield self._unread.popleft()
                continue
            try:
                async with asyncio.timeout(idle_s):
                    await self._news.wait()
            except TimeoutError:
                yield None
            self._news.clear()
