"""Cache of a replica's results: bounded in bytes, and concurrent requests of one key are computed once."""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from fireedit.serve import metrics
from fireedit.serve.schema import DeadlineExceeded

V = TypeVar("V")


@dataclass(eq=False)
class Demand:
    """Callers that wait for one result."""

    callers: int = 0
    deadline: float = -math.inf
    """Latest deadline of any caller so far, in seconds of `time.time`."""

    @property
    def wanted(self) -> bool:
        """True while a caller waits whose deadline has not passed."""
        return self.callers > 0 and time.time() < self.deadline


@dataclass(frozen=True, eq=False)
class _Call(Generic[V]):
    demand: Demand
    task: "asyncio.Future[V]"


class Cache(Generic[V]):
    """Least recently used results leave first.

    Args:
        kind: label of the hits and misses in the metrics.
        max_bytes: bound of the sizes' sum; 0 keeps nothing.
        size_of: bytes of a value; one larger than the bound is not kept.
    """

    def __init__(self, kind: str, max_bytes: int, size_of: Callable[[V], int]):
        self.kind, self.max_bytes, self.size_of = kind, max_bytes, size_of
        self.bytes = 0
        self._values: OrderedDict[str, V] = OrderedDict()
        self._calls: dict[str, _Call[V]] = {}

    def put(self, key: str, value: V) -> None:
        """Keep a value, in place of the least recently used ones if need be."""
        size = self.size_of(value)
        if size > self.max_bytes or key in self._values:
            return
        self._values[key] = value
        self.bytes += size
        while self.bytes > self.max_bytes:
            _, oldest = self._values.popitem(last=False)
            self.bytes -= self.size_of(oldest)

    async def fetch(self, key: str, deadline: float, compute: Callable[[Demand], Awaitable[V]]) -> tuple[V, bool]:
        """Return the value, and True if it was there or is being computed for an earlier caller.

        Args:
            deadline: seconds of `time.time`.
            compute: called once for all callers of a key; cancelled when none of them waits any more.
        Raises:
            DeadlineExceeded: the deadline passed first.
        """
        known = self._find(key)
        shared = known is not None or key in self._calls
        metrics.count_cache(self.kind, shared)
        if known is not None:
            return known, True
        while True:
            try:
                return await self._wait(key, deadline, compute), shared
            except DeadlineExceeded:
                if time.time() >= deadline:
                    raise
                # The call that this one joined was given up at its own, earlier deadline.

    async def _wait(self, key: str, deadline: float, compute: Callable[[Demand], Awaitable[V]]) -> V:
        call = self._calls.get(key)
        if call is None:
            demand = Demand()
            call = self._calls[key] = _Call(demand, asyncio.ensure_future(compute(demand)))
            call.task.add_done_callback(lambda _: self._finish(key, call))
        demand = call.demand
        demand.callers, demand.deadline = demand.callers + 1, max(demand.deadline, deadline)
        try:
            async with asyncio.timeout(None if deadline == math.inf else max(0, deadline - time.time())):
                return await asyncio.shield(call.task)
        except TimeoutError:
            raise DeadlineExceeded from None
        finally:
            demand.callers -= 1
            if demand.callers == 0:
                self._forget(key, call)
                call.task.cancel()

    def _finish(self, key: str, call: _Call[V]) -> None:
        """Keep the result of a call; reading its error tells asyncio that somebody knows it."""
        self._forget(key, call)
        if not call.task.cancelled() and call.task.exception() is None:
            self.put(key, call.task.result())

    def _forget(self, key: str, call: _Call[V]) -> None:
        if self._calls.get(key) is call:
            del self._calls[key]

    def _find(self, key: str) -> V | None:
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)
