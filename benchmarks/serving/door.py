"""Sections on the door: slow bodies, large pictures, floods and disconnects."""

import asyncio
import contextlib
import io
import itertools
import random
import time
from collections import Counter
from collections.abc import Sequence

import numpy as np
from PIL import Image

from fireedit.benchmarks.measuring import peak_growth_mb, restart_peaks
from fireedit.benchmarks.serving.client import EDITS, Answer, connection, form, get, request, send
from fireedit.benchmarks.serving.edits import Edit, draw
from fireedit.benchmarks.serving.figures import Figure, median, percentile
from fireedit.benchmarks.serving.server import Load, PeakMemory, Server
from fireedit.platform.console import say

SLOW_CLIENTS, LARGE_PICTURES, FLOOD, DISCONNECTS = 64, 32, 400, 500
PROBES = ("/health", "/ready")
PROBES_EVERY_S = 0.05
LARGE_SIDE = 5000
"""Pixels: 25 MP."""
AT_ONCE = 8
"""Edits in flight while clients disconnect: few enough that hardly one is refused."""


async def slow_bodies(server: Server, scale: float) -> list[Figure]:
    """Keep unfinished bodies open; time probes and edits with and without them."""
    count, seconds = max(4, round(SLOW_CLIENTS * scale)), max(3.0, 15 * scale)
    edits = draw(120, first=2000, steps=[3])
    before, probes_before = await _edits_and_probes(server, seconds, edits[:60])
    held = Held(server)
    holders = [asyncio.create_task(held.hold(0.1 * number)) for number in range(count)]
    await asyncio.sleep(0.1 * count)
    during, probes = await _edits_and_probes(server, seconds, edits[60:])
    still_open = held.open
    for holder in holders:
        holder.cancel()
    await asyncio.gather(*holders, return_exceptions=True)
    say(f"  of {count} unfinished bodies {still_open} are open at the end; ended and opened again: {dict(held.ended)}")
    return [
        Figure(f"with {count} unfinished bodies: p99 of probes", 1e3 * percentile(probes, 99), "ms", most=100),
        Figure("open at that time", still_open, least=0.9 * count),
        Figure("without: p99 of probes", 1e3 * percentile(probes_before, 99), "ms"),
        Figure("with: median of edits", median(during), "s"),
        Figure("over that without", median(during) / median(before), most=1.25),
    ]


async def _edits_and_probes(server: Server, seconds: float, edits: Sequence[Edit]) -> tuple[list[float], list[float]]:
    """Send edits one by one, and probes beside them, for some seconds; returns the seconds of each."""
    times, deadline = list[float](), time.monotonic() + seconds
    async with _probing(server) as probes:
        for edit in edits:
            answer = await send(server.url, edit.request(), timeout_s=60)
            times.append(answer.seconds if answer.status == 200 else float("nan"))
            if time.monotonic() > deadline:
                break
    return times, probes


@contextlib.asynccontextmanager
async def _probing(server: Server):  # type: ignore[no-untyped-def]  # yields a list that grows
    """Probe both routes at a steady pace while a block runs; a probe that fails counts as infinitely slow."""
    seconds = list[float]()

    async def probe(path: str) -> None:
        answer = await get(server.url, path, timeout_s=10)
        seconds.append(answer.seconds if answer.status == 200 else float("inf"))

    async def pace() -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                for path in PROBES:
                    group.create_task(probe(path))
                await asyncio.sleep(PROBES_EVERY_S)

    task = asyncio.create_task(pace())
    try:
        yield seconds
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Held:
    """Unfinished bodies of slow clients."""

    def __init__(self, server: Server):
        self.server, self.open = server, 0
        self.ended: Counter[str] = Counter()

    async def hold(self, delay_s: float) -> None:
        """Send a request's head and then a byte a second; when the server has enough of it, begin again."""
        data = request("POST", EDITS, form(b"", {"prompt": "x"})[:-30], {"Content-Length": 1_000_000})
        await asyncio.sleep(delay_s)
        while True:
            async with connection(self.server.url) as (reader, writer):
                self.open += 1
                writer.write(data)
                answer = asyncio.create_task(reader.read(64))
                while not answer.done():
                    writer.write(b"x")
                    await asyncio.wait([answer], timeout=1.0)
                self.open -= 1
                line = b"reset" if answer.exception() else answer.result().split(b"\r\n")[0]
                self.ended[line.decode(errors="replace") or "closed"] += 1
            await asyncio.sleep(0.1)


async def large_pictures(server: Server, scale: float) -> list[Figure]:
    """Upload pictures of 25 megapixels at once; memory of all processes above idle."""
    files = large_files()
    bodies = [
        form(files[number % len(files)], {"prompt": "make it red", "num_inference_steps": 3})
        for number in range(max(2, round(LARGE_PICTURES * scale)))
    ]
    resident = restart_peaks(server.processes())
    async with PeakMemory(server) as memory:
        began = time.monotonic()
        answers = await asyncio.gather(*(send(server.url, request("POST", EDITS, body)) for body in bodies))
        seconds = time.monotonic() - began
    outcomes = Counter(answer.outcome for answer in answers)
    say(f"  {len(bodies)} uploads of {LARGE_SIDE} x {LARGE_SIDE} in {seconds:.1f} s: {dict(outcomes)}")
    return [
        Figure(f"{len(bodies)} uploads of 25 MP: peak memory above idle", memory.growth_mb, "MB", most=1500),
        Figure("sum of every process's own peak above idle", peak_growth_mb(resident, server.processes()), "MB"),
        Figure("answered", outcomes["200"]),
        Figure("neither answered nor refused in the envelope", _bare(answers), most=0),
    ]


def large_files() -> list[bytes]:
    """Encode 25 megapixels as cheaply as a hostile client would: PNG, JPEG, interlaced PNG and WebP."""
    rows = np.linspace(0, 255, LARGE_SIDE, dtype=np.uint8)
    picture = Image.fromarray(np.broadcast_to(rows[:, None, None], (LARGE_SIDE, LARGE_SIDE, 3)).copy())
    return [_encoded(picture, "PNG"), _encoded(picture, "PNG"), _encoded(picture, "JPEG"), _encoded(picture, "WEBP")]


def _encoded(picture: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **({"method": 0} if kind == "WEBP" else {}))
    return file.getvalue()


async def flood(server: Server, scale: float) -> list[Figure]:
    """Send edits all at once; each is answered or refused in the envelope, and soon."""
    asked = draw(max(20, round(FLOOD * scale)), first=3000, steps=[10])
    answers = await asyncio.gather(*(send(server.url, edit.request()) for edit in asked))
    outcomes = Counter(answer.outcome for answer in answers)
    refused = [answer for answer in answers if answer.status == 429]
    say(f"  {len(asked)} at once: {dict(outcomes)}")
    told = [float(answer.headers["server-timing"].partition("dur=")[2]) for answer in refused]
    return [
        Figure(f"of {len(asked)} at once, answered", outcomes["200"]),
        Figure("refused with 429", outcomes["429"], least=1),
        Figure("anything else", len(answers) - outcomes["200"] - outcomes["429"], most=0),
        Figure("not in the envelope", _bare(answers), most=0),
        Figure("429 without Retry-After", sum("retry-after" not in answer.headers for answer in refused), most=0),
        Figure(
            "largest time of a 429 in the server, from its headers on", max(told, default=float("nan")), "ms", most=50
        ),
        Figure("p99 of refusals at the client", percentile([answer.seconds for answer in refused], 99), "s", most=1),
        Figure("p99 from the last byte sent to a refusal", percentile([each.waited_s for each in refused], 99), "s"),
        Figure("p99 of answers", percentile([answer.seconds for answer in answers if answer.status == 200], 99), "s"),
    ]


async def disconnects(server: Server, scale: float) -> list[Figure]:
    """Disconnect clients at random moments; nothing may run on for them."""
    count, chance = max(20, round(DISCONNECTS * scale)), random.Random(0)
    asked, numbers = draw(40, first=4000, steps=[30, 100]), itertools.count()
    left, answered = 0, Counter[str]()

    async def leave() -> None:
        nonlocal left
        while left < count:
            number = next(numbers)
            task = asyncio.create_task(send(server.url, asked[number % len(asked)].request(seed=number)))
            await asyncio.wait([task], timeout=chance.uniform(0.0, 1.5))
            if task.done():
                answered[task.result().outcome] += 1
            else:
                left += task.cancel()

    server.connect()
    await server.load()
    await asyncio.gather(*(leave() for _ in range(AT_ONCE)))
    began, at_last = time.monotonic(), await server.load()
    idle_after = await _idle_after(server, began)
    at_idle = await server.load()
    await asyncio.sleep(3.0)
    later = await server.load()
    say(f"  answered before they left: {dict(answered)}")
    say(f"  after the last disconnect: {at_last}; when idle: {at_idle}; 3 s later: {later}")
    return [
        Figure("clients that left", left, least=count),
        Figure("running and waiting are 0 after the last disconnect", idle_after, "s", most=1),
        Figure("steps after the last disconnect, an edit", _steps_each(at_last, at_idle), most=1),
        Figure("steps after that", later.steps - at_idle.steps, most=0),
    ]


def _steps_each(at_last: Load, at_idle: Load) -> float:
    return (at_idle.steps - at_last.steps) / max(1, at_last.running)


async def _idle_after(server: Server, began: float) -> float:
    """Wait until no edit runs or waits; returns the seconds since `began`, infinity after 30."""
    while time.monotonic() - began < 30:
        load = await server.load()
        if load.running == load.waiting == 0:
            return time.monotonic() - began
        await asyncio.sleep(0.02)
    return float("inf")


def _bare(answers: Sequence[Answer]) -> int:
    return sum(not answer.in_envelope for answer in answers)
