"""Chaos: kills, changes and a soak of the shipped service under an open-loop load of edits with known answers.

`kills` ends a random process every 20 s: a detector, a VLM, a UNet, a gateway and the proxy in turn, two replicas each.
Clients repeat what failed retryably. `changes` rolls out two settings, then 3 replicas and 1; nothing is
repeated. `soak` sends mixed requests, invalid ones among them, and fits the growth of memory, objects and open files.
The exit status is 1 if a bar is missed.
"""

import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # a thread of Serve would start another Ray when the service's has ended

import argparse
import asyncio
import contextlib
import itertools
import json
import random
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from fireedit.benchmarks.measuring import memory_mb, open_files, own_memory_mb
from fireedit.benchmarks.serving.arrivals import OpenLoad, Tally
from fireedit.benchmarks.serving.client import get, send
from fireedit.benchmarks.serving.edits import Edit, draw, solo_answers
from fireedit.benchmarks.serving.figures import Figure, median, percentile, report, show_section
from fireedit.benchmarks.serving.server import STAGES, STATE, Server
from fireedit.platform.cluster import LocalRay
from fireedit.platform.console import say
from fireedit.platform.processes import in_new_process

EDITS, STEPS = 60, (3, 10)
KILL_EVERY_S = 20.0
KINDS = (*STAGES, "Gateway", "proxy")
LOST_AFTER_S = 90.0
"""Seconds after which a killed process counts as never replaced."""
PROXY_BACK_WITHIN_S = 15.0
READ_EVERY_S, INVALID_EVERY_S = 15.0, 5.0
"""Seconds between the soak's readings, and between its invalid requests."""
FLAT_MB, FLAT_OBJECTS_MB, FLAT_FILES = 40.0, 4.0, 10.0
"""Largest growth over the soak's last two thirds that counts as none."""


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    sections: dict[str, list[Figure]] = {}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for name in args.only:
        folder = Path(tempfile.mkdtemp(prefix=f"fireedit-{name}-"))
        try:
            sections[name] = in_new_process(run, name, args, folder)
        finally:
            LocalRay(folder / STATE).stop()  # a process that was killed left it running
        show_section(name, sections[name])
    result = report(sections)
    print(json.dumps({"benchmark": "chaos", "minutes": args.minutes, "cores": os.cpu_count(), **result}))
    return 1 if result["missed"] else 0


def run(name: str, args: argparse.Namespace, folder: Path) -> list[Figure]:
    """Run a section with a service of its own; in a process of its own, as Serve's client cannot change its cluster."""
    section, settings = SECTIONS[name]
    with Server(settings, folder) as server:
        say(f"{name}: {server.url}; logs come to {server.folder}")
        server.connect()
        return asyncio.run(section(server, args))


def replicas(count: int) -> dict[str, Any]:
    """Change the number of replicas of every stage, with a CPU share that three of each fit into two cores."""
    section = {"min_replicas": count, "max_replicas": count, "cpus": 0.1}
    return dict.fromkeys(("detector", "vlm", "unet"), section)


async def kills(server: Server, args: argparse.Namespace) -> list[Figure]:
    """Kill processes in turn under load."""
    async with _under_load(server, args.rate) as (load, stop):
        recovered: dict[str, list[float]] = {kind: [] for kind in KINDS}
        meanwhile = list[int]()
        watchers = list[asyncio.Task]()
        end, chance = time.monotonic() + 60 * args.minutes, random.Random(0)
        await asyncio.sleep(5)
        for number in range(10**9):
            kind = KINDS[number % len(KINDS)]
            watchers.append(asyncio.create_task(_kill(server, kind, chance, load.tally, recovered[kind], meanwhile)))
            await asyncio.sleep(KILL_EVERY_S)
            if time.monotonic() > end:
                break
        await asyncio.gather(*watchers)
        stop.set()
    slowest = {kind: max(times, default=float("nan")) for kind, times in recovered.items()}
    return [
        *_tally_figures(load.tally),
        Figure("requests that OpenAI's client would have given up after 2 repetitions", load.tally.beyond_openai),
        Figure("kills", sum(map(len, recovered.values()))),
        *[Figure(f"{kind} back, slowest", slowest[kind], "s", **_bar(kind)) for kind in KINDS],
        Figure("answers while a gateway was missing, fewest", min(meanwhile, default=float("nan")), least=1),
    ]


def _bar(kind: str) -> dict[str, float]:
    return {"most": PROXY_BACK_WITHIN_S} if kind == "proxy" else {"most": LOST_AFTER_S}


async def _kill(
    server: Server, kind: str, chance: random.Random, tally: Tally, recovered: list[float], meanwhile: list[int]
) -> None:
    """Kill one process of a kind and wait for its successor."""
    victims = await asyncio.to_thread(server.titled, kind)
    if not victims:
        say(f"  {kind}: there is none to kill")
        return
    old = {process.pid for process in victims}
    server.kill(chance.choice(victims))
    began = time.monotonic()
    while not await _is_replaced(server, kind, old) and time.monotonic() - began < LOST_AFTER_S:
        await asyncio.sleep(0.5)
    seconds = time.monotonic() - began
    recovered.append(seconds if seconds < LOST_AFTER_S else float("inf"))
    if kind == "Gateway":
        meanwhile.append(tally.answered_between(began, began + seconds))
    retried = dict(tally.retried)
    say(f"  {kind:9s} back after {seconds:5.1f} s  sent {tally.sent}  lost {len(tally.lost)}  retried {retried}")


async def _is_replaced(server: Server, kind: str, old: set[int]) -> bool:
    """Return whether there are as many processes as before, one of them new, and all in service."""
    now = {process.pid for process in await asyncio.to_thread(server.titled, kind)}
    if len(now) < len(old) or not now - old:
        return False
    if kind == "proxy":
        return (await get(server.url, "/health", timeout_s=5)).status == 200
    try:
        return (await asyncio.to_thread(server.running))[kind] >= len(old)
    except (RayError, RayServeException, TimeoutError) as error:
        say(f"  the controller gives no state: {type(error).__name__}")
        return False


async def changes(server: Server, args: argparse.Namespace) -> list[Figure]:
    """Change settings and numbers of replicas under load."""
    changed = {**server.changes, "limits": {"max_steps": 900}, "unet": {"max_branches": 9, "cpus": 0.1}}
    rollouts = {"two settings": 1, "1 to 3 replicas": 3, "3 to 1 replicas": 1}
    server.replicas = 1
    await asyncio.to_thread(server.deploy, server.changes)
    await _settled(server)
    seconds = {}
    async with _under_load(server, args.rate, least=args.requests, retries=0) as (load, stop):
        await asyncio.sleep(5)
        for name, server.replicas in rollouts.items():
            began = time.monotonic()
            await asyncio.to_thread(server.deploy, changed, False)
            await _settled(server)
            seconds[name] = time.monotonic() - began
            say(f"  {name}: {seconds[name]:.1f} s  sent {load.tally.sent}  lost {len(load.tally.lost)}")
            await asyncio.sleep(5)
        stop.set()
    return [*_tally_figures(load.tally), *[Figure(f"rolling out {name}", each, "s") for name, each in seconds.items()]]


async def _settled(server: Server) -> None:
    """Wait until a rollout is over: the controller has taken it up, and then calls the application running again."""
    await asyncio.sleep(3)
    while not await asyncio.to_thread(server.is_settled):
        await asyncio.sleep(0.5)


async def soak(server: Server, args: argparse.Namespace) -> list[Figure]:
    """Send mixed requests and fit the growth of what a leak would take."""
    readings = list[tuple[float, ...]]()
    counts = {"invalid": 0, "not 400": 0, "not ready": 0}
    async with _under_load(server, args.rate) as (load, stop):
        side = [asyncio.create_task(_send_invalid(server, counts)), asyncio.create_task(_leave_early(server))]
        end = time.monotonic() + 60 * args.minutes
        while time.monotonic() < end:
            readings.append(await asyncio.to_thread(_reading, server))
            _, memory, objects, files, _ = readings[-1]
            say(f"  {memory:7.0f} MB  objects {objects:6.2f} MB  files {files:5.0f}  sent {load.tally.sent}  {counts}")
            await asyncio.sleep(min(READ_EVERY_S, 20 * args.minutes))
        for task in side:
            task.cancel()
        stop.set()
    memory, objects, files, own = (_growth(readings, column) for column in (1, 2, 3, 4))
    return [
        *_tally_figures(load.tally),
        Figure("growth of the service's memory in the last two thirds", memory, "MB", most=FLAT_MB),
        Figure("growth of it without pages of files", own, "MB"),
        Figure("growth of the object store", objects, "MB", most=FLAT_OBJECTS_MB),
        Figure("growth of open files", files, most=FLAT_FILES),
        Figure("invalid requests", counts["invalid"]),
        Figure("invalid requests not answered with 400 in the envelope", counts["not 400"], most=0),
        Figure("probes of /ready that failed", counts["not ready"], most=0),
    ]


def _reading(server: Server) -> tuple[float, ...]:
    """Read time, memory of proxies, controller and replicas, object store, open files, and memory without files."""
    processes = server.service_processes()
    total, free = (
        each.get("object_store_memory", 0.0) for each in (ray.cluster_resources(), ray.available_resources())
    )
    objects_mb = (total - free) / 1e6
    return time.monotonic(), memory_mb(processes), objects_mb, open_files(processes), own_memory_mb(processes)


def _growth(readings: Sequence[Sequence[float]], column: int) -> float:
    """Fit a line to the last two thirds of the readings; returns its rise over them."""
    kept = np.array(readings[len(readings) // 3 :])
    if len(kept) < 3:
        return float("nan")
    slope, _ = np.polyfit(kept[:, 0] - kept[0, 0], kept[:, column], 1)
    return float(slope * (kept[-1, 0] - kept[0, 0]))


async def _send_invalid(server: Server, counts: dict[str, int]) -> None:
    """Send invalid requests of several kinds, which must stay 400, and probe the service."""
    good = draw(1, first=5000, steps=[3])[0]
    invalid: list[Callable[[], bytes]] = [
        lambda: good.request(n="many"),
        lambda: Edit(good.file[: len(good.file) // 2], "make it red", 0, ()).request(),
        lambda: Edit(good.file, "", 0, ()).request(),
        lambda: Edit(b"GIF89a no", "make it red", 0, ()).request(),
        lambda: good.request(stream="perhaps"),
    ]
    while True:
        answer = await send(server.url, invalid[counts["invalid"] % len(invalid)]())
        counts["invalid"] += 1
        counts["not 400"] += answer.status != 400 or answer.error is None
        counts["not ready"] += (await get(server.url, "/ready", timeout_s=10)).status != 200
        await asyncio.sleep(INVALID_EVERY_S)


async def _leave_early(server: Server) -> None:
    """Disconnect from an edit now and then."""
    for number, edit in enumerate(itertools.cycle(draw(20, first=6000, steps=[100]))):
        await send(server.url, edit.request(seed=number), timeout_s=1.0)
        await asyncio.sleep(INVALID_EVERY_S)


@contextlib.asynccontextmanager
async def _under_load(
    server: Server, rate: float, least: int = 0, retries: int | None = None
) -> AsyncIterator[tuple[OpenLoad, asyncio.Event]]:
    """Run the load until the block sets the event; waits for its last answer."""
    asked = draw(EDITS, steps=STEPS)
    load = OpenLoad(server.url, asked, await asyncio.to_thread(solo_answers, asked, server.threads), rate)
    stop = asyncio.Event()
    running = asyncio.create_task(load.run(stop, least, retries))
    try:
        yield load, stop
        await running
    finally:
        running.cancel()


def _tally_figures(tally: Tally) -> list[Figure]:
    for outcome in sorted(set(tally.lost)):
        say(f"  lost: {outcome}")
    say(f"  attempts that were repeated: {dict(tally.retried)}")
    return [
        Figure("requests", tally.sent),
        Figure("lost", len(tally.lost), most=0),
        Figure("wrong pictures", tally.wrong, most=0),
        Figure("duplicated answers", tally.duplicated, most=0),
        Figure("responses outside the envelope", tally.bare, most=0),
        Figure("attempts that failed retryably", sum(tally.retried.values())),
        Figure("median of answers, repetitions included", median(tally.seconds), "s"),
        Figure("p99 of answers", percentile(tally.seconds, 99), "s"),
    ]


Section = Callable[[Server, argparse.Namespace], Coroutine[Any, Any, list[Figure]]]
SECTIONS: dict[str, tuple[Section, Mapping[str, Any]]] = {
    "kills": (kills, replicas(2)),
    "changes": (changes, replicas(1)),
    "soak": (soak, {}),
}
"""Sections, and the changes to the shipped settings with which each begins."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = " (default: %(default)s)"
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=["kills", "changes"], help="sections" + default)
    parser.add_argument("--minutes", type=float, default=20, help="of kills, and of the soak" + default)
    parser.add_argument("--rate", type=float, default=1.0, help="edits a second" + default)
    parser.add_argument("--requests", type=int, default=500, help="least number of edits during changes" + default)
    return parser


if __name__ == "__main__":
    sys.exit(main())
