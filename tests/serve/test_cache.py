"""Kept results: their bound in bytes, and one computation for concurrent requests."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable

import pytest

from fireedit.serve.cache import Cache, Demand
from fireedit.serve.schema import DeadlineExceeded

LONG = math.inf


def cache_of(max_bytes: int) -> Cache[str]:
    return Cache("test", max_bytes, len)


class Computation:
    """Counts its runs, and whether somebody waited for each at its end."""

    def __init__(self, seconds: float = 0.02, result: str = "value"):
        self.seconds, self.result = seconds, result
        self.runs, self.finished, self.wanted = 0, 0, list[bool]()

    async def __call__(self, demand: Demand) -> str:
        self.runs += 1
        await asyncio.sleep(self.seconds)
        self.finished += 1
        self.wanted.append(demand.wanted)
        return self.result


def test_least_recently_used_values_leave_first() -> None:
    cache = cache_of(max_bytes=8)

    async def kept(keys: str) -> list[bool]:
        return [(await cache.fetch(key, LONG, Computation(0.0, "larger than all")))[1] for key in keys]

    async def requests() -> None:
        for key in "abcd":
            cache.put(key, f"{key}{key}")
        assert await kept("a") == [True] and cache.bytes == 8
        cache.put("e", "eee")
        assert await kept("abcde") == [True, False, False, True, True] and cache.bytes == 7
        cache.put("f", "larger than all")
        assert await kept("f") == [False] and cache.bytes == 7

    asyncio.run(requests())


def test_without_bytes_nothing_is_kept() -> None:
    cache, compute = cache_of(max_bytes=0), Computation()
    assert asyncio.run(cache.fetch("a", LONG, compute)) == ("value", False)
    assert asyncio.run(cache.fetch("a", LONG, compute)) == ("value", False)
    assert compute.runs == 2


def test_concurrent_requests_of_one_key_compute_once() -> None:
    cache, compute, other = cache_of(100), Computation(), Computation(result="other")

    async def requests() -> list[tuple[str, bool]]:
        same = [cache.fetch("a", LONG, compute) for _ in range(3)]
        return [*await asyncio.gather(*same, cache.fetch("b", LONG, other)), await cache.fetch("a", LONG, compute)]

    expected = [("value", False), ("value", True), ("value", True), ("other", False), ("value", True)]
    assert asyncio.run(requests()) == expected and (compute.runs, other.runs) == (1, 1)


def test_a_callers_leaving_does_not_disturb_the_others() -> None:
    cache, compute = cache_of(100), Computation()

    async def requests() -> tuple[str, bool]:
        first = asyncio.create_task(cache.fetch("a", LONG, compute))
        second = asyncio.create_task(cache.fetch("a", LONG, compute))
        await asyncio.sleep(0)
        first.cancel()
        return await second

    assert asyncio.run(requests()) == ("value", True) and compute.runs == 1


def test_a_computation_that_all_callers_left_is_cancelled_and_repeated_for_the_next() -> None:
    cache, compute = cache_of(100), Computation()

    async def requests() -> tuple[str, bool]:
        callers = [asyncio.create_task(cache.fetch("a", LONG, compute)) for _ in range(2)]
        await asyncio.sleep(0.001)
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
        return await cache.fetch("a", LONG, compute)

    assert asyncio.run(requests()) == ("value", False) and (compute.runs, compute.finished) == (2, 1)


def test_each_caller_waits_until_its_own_deadline() -> None:
    cache, compute = cache_of(100), Computation(seconds=0.2)

    async def requests() -> list[object]:
        early = cache.fetch("a", time.time() + 0.02, compute)
        return await asyncio.gather(early, cache.fetch("a", LONG, compute), return_exceptions=True)

    missed, done = asyncio.run(requests())
    assert isinstance(missed, DeadlineExceeded) and done == ("value", True)
    assert compute.runs == 1 and compute.wanted == [True]


def test_a_caller_with_time_left_repeats_a_computation_that_was_given_up() -> None:
    cache, runs = cache_of(100), 0

    async def give_up_once(demand: Demand) -> str:
        nonlocal runs
        runs += 1
        await asyncio.sleep(0.01)
        if runs == 1:
            raise DeadlineExceeded
        return "value"

    assert asyncio.run(cache.fetch("a", time.time() + 60, give_up_once)) == ("value", False) and runs == 2


@pytest.mark.parametrize("deadline", [0, -math.inf])
def test_a_passed_deadline_is_refused(deadline: float) -> None:
    cache, compute = cache_of(100), Computation()
    with pytest.raises(DeadlineExceeded):
        asyncio.run(cache.fetch("a", deadline, compute))
    assert compute.finished == 0


def test_errors_reach_every_caller_and_are_not_kept() -> None:
    cache = cache_of(100)

    async def fail(demand: Demand) -> str:
        await asyncio.sleep(0.01)
        raise ValueError("broken")

    async def requests(compute: Callable[[Demand], Awaitable[str]]) -> list[object]:
        return await asyncio.gather(*(cache.fetch("a", LONG, compute) for _ in range(2)), return_exceptions=True)

    assert [str(error) for error in asyncio.run(requests(fail))] == ["broken"] * 2
    assert asyncio.run(cache.fetch("a", LONG, Computation())) == ("value", False)
