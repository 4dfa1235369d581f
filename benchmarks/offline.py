"""Benchmark of many edits that are killed: each picture done once, with the pixels of an unbroken run.

`jobs/edit.py` edits a folder of procedural scenes with the shipped weights, once unbroken and once with SIGKILL to its
process group at random moments, after each of which it is started again. The exit status is 1 if a bar is missed.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from fireedit.benchmarks.serving.figures import Figure, report, show_section
from fireedit.platform import storage
from fireedit.platform.console import say
from fireedit.platform.images import ImageError, decode, encode_png
from fireedit.platform.scenes.families import make_edit
from fireedit.platform.scenes.render import draw_scene
from fireedit.platform.scenes.world import WORLDS

CHECKOUT = Path(__file__).resolve().parents[1]
SIDE = 96
"""Side of the pictures, pixels."""
DAMAGED_EVERY = 50
"""Every this many pictures is no picture, and has to be set aside."""
LOOK_EVERY_S = 0.05
END_WITHIN_S = 60.0


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    folder = Path(tempfile.mkdtemp(prefix="fireedit-offline-"))
    say(f"{args.pictures} pictures; files and logs are in {folder}")
    write_scenes(folder / "in", args.pictures)
    unbroken, broken = Job(folder, "unbroken"), Job(folder, "broken")
    whole_s = unbroken.run()
    chance = random.Random(args.seed)
    killed_s = kill_at_random(broken, args.kills, args.pictures, chance)
    rest_s = broken.run()
    figures = compare(unbroken, broken, args.pictures, args.kills)
    figures += [
        Figure("the unbroken run", whole_s, "s"),
        Figure("pictures a second of it, start included", args.pictures / whole_s),
        Figure("the killed runs and the last", killed_s + rest_s, "s"),
    ]
    show_section("offline", figures)
    result = report({"offline": figures})
    print(json.dumps({"benchmark": "offline", "pictures": args.pictures, "cores": os.cpu_count(), **result}))
    return 1 if result["missed"] else 0


class Job:
    """Edit job in a folder of its own.

    Args:
        folder: holds the pictures in `in`, and gets the job's output and logs under its name.
    """

    def __init__(self, folder: Path, name: str):
        self.folder, self.out, self.log = folder, folder / name, folder / f"{name}.log"
        self.report: dict[str, Any] = {}
        """Line of JSON that the last start ended with."""

    def run(self) -> float:
        """Run it to its end; returns the seconds.

        Raises:
            subprocess.CalledProcessError: it failed.
        """
        began, process = time.monotonic(), self.start()
        output, _ = process.communicate()
        if process.returncode:
            say(self.log.read_text()[-2000:])
            raise subprocess.CalledProcessError(process.returncode, process.args)
        self.report = json.loads(output.splitlines()[-1])
        return time.monotonic() - began

    def start(self) -> subprocess.Popen:
        """Start it in a process group of its own, with a Ray of its own."""
        command = [sys.executable, str(CHECKOUT / "jobs" / "edit.py"), str(self.folder / "in"), "--out", str(self.out)]
        command += ["--instructions", str(self.folder / "instructions.jsonl"), "--device", "cpu"]
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        with self.log.open("a") as log:
            return subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment | {"PYTHONPATH": str(CHECKOUT), "RAY_TMPDIR": str(self.folder / "ray")},
                start_new_session=True,
            )

    def rows(self, kind: str = "rows") -> list[dict[str, Any]]:
        """Read all lines of `rows` or `failed`."""
        parts = sorted((self.out / kind).glob("*.jsonl"))
        return [json.loads(line) for part in parts for line in part.read_text().splitlines()]

    def pixels(self) -> dict[str, str]:
        """Hash the decoded pixels of every edited picture."""
        hashes = {}
        for path in sorted((self.out / "edited").rglob("*.png")):
            try:
                hashes[path.stem] = hashlib.sha256(decode(path.read_bytes()).tobytes()).hexdigest()
            except ImageError as error:
                hashes[path.stem] = f"damaged: {error}"
        return hashes

    def written(self) -> int:
        """Count the edited pictures."""
        return len(storage.names(str(self.out / "edited")))


def write_scenes(folder: Path, count: int) -> None:
    """Write scenes and their instructions; some files are damaged."""
    folder.mkdir(parents=True)
    world = WORLDS["unseen_seeds"]
    with (folder.parent / "instructions.jsonl").open("w") as file:
        for number in range(count):
            edit = make_edit(world, world.seeds[number], "recolor")
            data = encode_png(np.ascontiguousarray(draw_scene(edit.source, SIDE).image))
            name = f"{number:06d}.png"
            (folder / name).write_bytes(data[: len(data) // 2] if _is_damaged(number) else data)
            file.write(json.dumps({"image": name, "instruction": edit.instruction}) + "\n")


def kill_at_random(job: Job, kills: int, pictures: int, chance: random.Random) -> float:
    """Start a job and kill it, again and again, at random numbers of written pictures; returns the seconds."""
    began = time.monotonic()
    moments = sorted(chance.sample(range(1, int(pictures * 0.9)), kills))
    for moment in moments:
        moment = max(moment, job.written() + 1)  # an earlier kill may have come after more pictures
        process = job.start()
        while job.written() < moment and process.poll() is None:
            time.sleep(LOOK_EVERY_S)
        time.sleep(chance.uniform(0, 1))
        if process.poll() is not None:
            say(f"  ended by itself with {job.written()} pictures")
        _kill(process)
        say(f"  killed at {job.written()} pictures, {len(job.rows())} with a line")
    return time.monotonic() - began


def compare(unbroken: Job, broken: Job, pictures: int, kills: int) -> list[Figure]:
    """Compare the outputs of a killed job with those of an unbroken one."""
    expected, pixels = unbroken.pixels(), broken.pixels()
    edited, failed = Counter(row["id"] for row in broken.rows()), Counter(row["id"] for row in broken.rows("failed"))
    damaged = {f"{number:06d}" for number in range(pictures) if _is_damaged(number)}
    whole = {f"{number:06d}" for number in range(pictures)} - damaged
    lost = len(whole - set(edited)) + len(whole - set(pixels)) + len(damaged - set(failed))
    return [
        Figure("kills", kills),
        Figure("pictures lost", lost, most=0),
        Figure("pictures recorded more than once", sum(count > 1 for count in (edited + failed).values()), most=0),
        Figure("pictures of nothing that was asked", len(set(pixels) - whole) + len(set(edited) - whole), most=0),
        Figure(
            "pictures with other pixels", sum(pixels.get(name) != value for name, value in expected.items()), most=0
        ),
        Figure("whole pictures of the unbroken run", len(expected), least=len(whole), most=len(whole)),
        Figure("damaged files set aside", len(failed), least=len(damaged), most=len(damaged)),
        Figure("pictures that the last start skipped", broken.report["skipped"], least=1),
    ]


def _is_damaged(number: int) -> bool:
    return number % DAMAGED_EVERY == DAMAGED_EVERY - 1


def _kill(process: subprocess.Popen) -> None:
    """Kill a job's process group, and wait until the Ray that it started has ended too."""
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for left in psutil.wait_procs(family, timeout=END_WITHIN_S)[1]:
            say(f"  {left.name()} outlived the job by {END_WITHIN_S:.0f} s")
            left.kill()
    process.communicate()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = " (default: %(default)s)"
    parser.add_argument("--pictures", type=int, default=1000, help="pictures to edit" + default)
    parser.add_argument("--kills", type=int, default=5, help="kills" + default)
    parser.add_argument("--seed", type=int, default=0, help="of the moments" + default)
    return parser


if __name__ == "__main__":
    sys.exit(main())
