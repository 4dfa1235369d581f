"""Sections on the painter: equal pictures in any company, fair turns, throughput and CPU time beside a plain server."""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from fireedit.benchmarks.measuring import cpu_seconds, cpu_since
from fireedit.benchmarks.serving import edits, reference
from fireedit.benchmarks.serving.client import Answer, connection, send
from fireedit.benchmarks.serving.edits import GUIDED, Edit, Threads, draw, solo_answers
from fireedit.benchmarks.serving.figures import Figure, median
from fireedit.benchmarks.serving.server import Server
from fireedit.platform.console import say

LONG, SHORT = 300, 3
"""Denoising steps of the edits that share a batch in `fairness`."""


async def same_pictures(server: Server, scale: float) -> list[Figure]:
    """Send distinct edits of mixed steps and guidance at once; compare with each alone and with the pipeline."""
    asked = draw(max(4, round(32 * scale)))
    expected = await asyncio.to_thread(solo_answers, asked, server.threads)
    together = await asyncio.gather(*(send(server.url, edit.request()) for edit in asked))
    alone = [await send(server.url, edit.request()) for edit in asked]
    wrong = _differing(asked, together, expected)
    apart = sum(a.status != 200 or not _same(a, b) for a, b in zip(alone, together, strict=True))
    return [
        Figure(f"of {len(asked)} concurrent edits, not answered", sum(a.status != 200 for a in together), most=0),
        Figure("concurrent, unlike the pipeline in process", wrong, most=0),
        Figure("alone on the server, unlike the pipeline in process", _differing(asked, alone, expected), most=0),
        Figure("concurrent, unlike alone on the server", apart, most=0),
        Figure("largest difference to the pipeline, gray levels", _largest_difference(together, expected)),
    ]


async def fairness(server: Server, scale: float) -> list[Figure]:
    """Time a short edit behind a long one, and a long one whose three batch-mates leave."""
    rounds = max(1, round(5 * scale))
    short = draw(2 * rounds, first=1000, steps=[SHORT], guidance=[GUIDED])
    long = draw(rounds + 6, first=1100, steps=[LONG], guidance=[GUIDED])
    await send(server.url, short[0].request(seed=1))  # a warm-up
    solo = [(await send(server.url, edit.request())).seconds for edit in short[:rounds]]
    behind = []
    for first, second in zip(long, short[rounds:], strict=False):
        async with _running(server, [first]):
            await asyncio.sleep(1.0)
            behind.append((await send(server.url, second.request())).seconds)
    ratio = median(behind) / median(solo)
    return [
        Figure("a 3-step edit alone", median(solo), "s"),
        Figure("a 3-step edit behind a 300-step one", median(behind), "s"),
        Figure("ratio of the two", ratio, most=2),
        *await _after_leaving(server, long[rounds:]),
    ]


async def _after_leaving(server: Server, long: Sequence[Edit]) -> list[Figure]:
    """Let three of four equal edits leave; the fourth's time from then on over that of its remaining steps alone."""
    solo = (await send(server.url, long[0].request())).seconds
    server.connect()
    before = await server.load()
    fourth = asyncio.create_task(send(server.url, long[1].request()))
    async with _running(server, long[2:5]):
        await asyncio.sleep(max(2.0, solo / 3))
        done = ((await server.load()).steps - before.steps) / 4
    left = time.monotonic()
    answer = await fourth
    remaining = time.monotonic() - left
    expected = solo * (1 - done / LONG)
    return [
        Figure("a 300-step edit alone", solo, "s"),
        Figure("steps of each of four when three leave", done),
        Figure("the fourth's remaining time", remaining if answer.status == 200 else float("nan"), "s"),
        Figure("over the time of its remaining steps alone", remaining / expected, most=1.3),
    ]


@contextlib.asynccontextmanager
async def _running(server: Server, asked: Sequence[Edit]) -> Any:
    """Keep edits running; their clients disconnect at the end."""
    async with contextlib.AsyncExitStack() as stack:
        for edit in asked:
            _, writer = await stack.enter_async_context(connection(server.url))
            writer.write(edit.request())
            await writer.drain()
        yield


async def speed(server: Server, scale: float) -> list[Figure]:
    """Compare throughput and CPU time with the pipeline in process, ours and a plain server's, in turns."""
    asked = draw(max(8, round(32 * scale)), first=1200, steps=[30], guidance=[GUIDED])
    few, rounds = asked[: max(4, round(12 * scale))], max(1, round(3 * scale))
    idle = await _idle_cpu(server, seconds=max(5.0, 20 * scale))
    ours, theirs = list[dict[str, float]](), list[dict[str, float]]()
    for number in range(rounds):
        ours.append(await _one_round(server.url, asked, few, server.threads, server.processes, edits.time_in_process))
        async with reference.plain_server(server.threads.unet) as plain:
            rates = await _one_round(plain.url, asked, few, server.threads, plain.processes, reference.time_in_process)
            theirs.append(rates)
        say(f"  round {number + 1}/{rounds}: {ours[-1]} beside {theirs[-1]}")
    return [
        *_ratios("", ours, {"least": 1.5}, {"most": 1.10}),
        Figure("CPU time without Ray's idle background, over in-process", _without(idle, ours)),
        Figure("Ray's idle background, CPU seconds a second", idle),
        *_ratios("plain server with diffusers' pipeline: ", theirs, {}, {}),
        Figure("FLOPs of a step of the plain server's UNet over ours", reference.flops_ratio()),
    ]


async def _one_round(
    url: str, asked: Sequence[Edit], few: Sequence[Edit], threads: Threads, processes: Any, alone: Any
) -> dict:
    """Measure one server and its pipeline in process, seconds and CPU seconds an edit."""
    in_process, in_process_cpu = await asyncio.to_thread(alone, few, threads)
    await send(url, asked[0].request(seed=7))
    together = await _seconds_each(url, asked, concurrency=8)
    before, began = cpu_seconds(processes()), time.monotonic()
    await _seconds_each(url, few, concurrency=1)
    wall = (time.monotonic() - began) / len(few)
    cpu = cpu_since(before, processes()) / len(few)
    figures = {"in_process": in_process, "in_process_cpu": in_process_cpu, "of_8": together, "alone": wall, "cpu": cpu}
    return {name: round(value, 3) for name, value in figures.items()}


async def _seconds_each(url: str, asked: Sequence[Edit], concurrency: int) -> float:
    """Send edits, `concurrency` at a time; returns seconds per edit."""
    waiting, began = iter(asked), time.monotonic()

    async def work() -> None:
        for edit in waiting:
            answer = await send(url, edit.request())
            if answer.status != 200:
                raise RuntimeError(f"an edit was answered {answer.outcome}: {answer.body[:300]!r}")

    await asyncio.gather(*(work() for _ in range(concurrency)))
    return (time.monotonic() - began) / len(asked)


async def _idle_cpu(server: Server, seconds: float) -> float:
    processes = server.processes()
    before, began = cpu_seconds(processes), time.monotonic()
    await asyncio.sleep(seconds)
    return cpu_since(before, processes) / (time.monotonic() - began)


def _ratios(name: str, rounds: Sequence[dict[str, float]], fast: dict, cheap: dict) -> list[Figure]:
    throughput = median([each["in_process"] / each["of_8"] for each in rounds])
    cpu = median([each["cpu"] / each["in_process_cpu"] for each in rounds])
    return [
        Figure(f"{name}seconds an edit in process", median([each["in_process"] for each in rounds]), "s"),
        Figure(f"{name}throughput of 8 over in-process", throughput, **fast),
        Figure(f"{name}CPU time over in-process", cpu, **cheap),
    ]


def _without(idle: float, rounds: Sequence[dict[str, float]]) -> float:
    return median([(each["cpu"] - idle * each["alone"]) / each["in_process_cpu"] for each in rounds])


def _same(one: Answer, other: Answer) -> bool:
    if (one.status, other.status) != (200, 200):
        return False
    return all(np.array_equal(a, b) for a, b in zip(one.pictures(), other.pictures(), strict=True))


def _differing(asked: Sequence[Edit], answers: Sequence[Answer], expected: Sequence[np.ndarray]) -> int:
    return sum(not edit.is_answered_by(a, e) for edit, a, e in zip(asked, answers, expected, strict=True))


def _largest_difference(answers: Sequence[Answer], expected: Sequence[np.ndarray]) -> float:
    pairs = [(a.pictures()[0].astype(int), e) for a, e in zip(answers, expected, strict=True) if a.status == 200]
    return float(max((np.abs(a - e).max() for a, e in pairs if a.shape == e.shape), default=float("nan")))
