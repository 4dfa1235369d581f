"""Autoscaling of a training stage on one machine: nodes come for it, it trains on them, idle nodes go.

The head has no CPUs. `ray job submit` starts `jobs/train.py --stage 2`, as small as it gets, whose two workers ask for
more than one node of the fake cloud has. The nodes are counted in the autoscaler's own state, twice a second. The exit
status is 1 if a bar is missed.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import argparse
import contextlib
import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from ray.autoscaler.v2.sdk import get_cluster_status

from fireedit.benchmarks.fake_cloud import start_on_fake_cloud
from fireedit.benchmarks.serving.figures import Figure, report, show_section
from fireedit.platform.cluster import LocalRay, set_ray_variables
from fireedit.platform.console import say

CHECKOUT = Path(__file__).resolve().parents[1]
NODE, NODES = "cpu", 2
"""Name of the type of node, and how many of them the stage needs."""
LOOK_EVERY_S = 0.5
GONE_WITHIN_S = 120.0
"""Seconds for which idle nodes are awaited to go, beyond those that they may be idle."""
SMALL = (
    *("scenes.rows=24", "scenes.size=32", "ingest.tasks=1", "engine.micro_batch=2", "log_every=1"),
    *("optimizer={lr: 1.0e-3}", "mixture={instructpix2pix: 1, llava_instruct: 1}", "init_from=fresh"),
)
"""Settings of a stage that takes seconds."""


@dataclass(frozen=True)
class Moment:
    """Nodes beside the head from this moment to the next."""

    seconds: float
    """Seconds since the job was submitted."""
    nodes: int
    busy: int
    """Nodes that hold work."""
    coming: int
    """Nodes that the cloud was asked for, or that start."""


class Timeline:
    """Numbers of nodes over time, read from the autoscaler's state by a thread of its own.

    Args:
        address: address of the GCS.
    """

    def __init__(self, address: str):
        self.address, self.moments, self._began = address, [self._look(address, 0.0)], time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Timeline":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def _watch(self) -> None:
        while not self._over.wait(LOOK_EVERY_S):
            moment = self._look(self.address, self.seconds)
            if astuple(moment)[1:] != astuple(self.moments[-1])[1:]:
                say(f"  {moment.seconds:6.1f} s  nodes {moment.nodes}  busy {moment.busy}  coming {moment.coming}")
                self.moments.append(moment)

    @staticmethod
    def _look(address: str, seconds: float) -> Moment:
        status = get_cluster_status(address)
        busy, idle = (
            sum(node.ray_node_type_name == NODE for node in nodes) for nodes in (status.active_nodes, status.idle_nodes)
        )
        coming = sum(launch.count for launch in status.pending_launches if launch.ray_node_type_name == NODE)
        coming += sum(node.ray_node_type_name == NODE for node in status.pending_nodes)
        return Moment(round(seconds, 1), busy + idle, busy, coming)


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    folder = Path(tempfile.mkdtemp(prefix="fireedit-autoscale-"))
    ray = LocalRay(folder / "ray.json")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with contextlib.chdir(CHECKOUT):  # jobs start in the folder in which Ray was started
            address = start_on_fake_cloud(
                ray, folder / "ray.log", {NODE: {"CPU": 1}}, NODES, args.idle_s, {"PYTHONPATH": str(CHECKOUT)}
            )
        set_ray_variables({name: ray.environment[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")})
        say(f"a head without CPUs runs; logs come to {folder}")
        with Timeline(address) as timeline:
            summary = train(ray, folder, args.steps)
            trained_s = timeline.seconds
            while timeline.moments[-1].nodes and timeline.seconds < trained_s + args.idle_s + GONE_WITHIN_S:
                time.sleep(LOOK_EVERY_S)
    finally:
        ray.keep_logs(folder / "logs")
        ray.stop()
    figures = judge(timeline.moments, trained_s, summary["step"], args.steps)
    show_section("autoscale", figures)
    result = report({"autoscale": figures})
    moments = [
        dict(zip(("seconds", "nodes", "busy", "coming"), astuple(each), strict=True)) for each in timeline.moments
    ]
    print(json.dumps({"benchmark": "autoscale", "cores": os.cpu_count(), "timeline": moments, **result}))
    return 1 if result["missed"] else 0


def train(ray: LocalRay, folder: Path, steps: int) -> dict[str, Any]:
    """Train the stage as a submitted job; returns its summary.

    Raises:
        SystemExit: the job failed.
    """
    command = ["ray", "job", "submit", "--", "python", "jobs/train.py", "--stage", "2", *SMALL]
    command += [f"home={folder / 'home'}", "run=autoscale", f"steps={steps}", f"save_every={steps}"]
    log = folder / "train.log"
    with log.open("w") as output:
        done = subprocess.run(command, env=ray.environment, stdout=output, stderr=subprocess.STDOUT)
    lines = log.read_text().splitlines()
    if done.returncode:
        sys.exit(f"the stage failed; {log} ends\n" + "\n".join(lines[-15:]))
    for line in lines:
        if "waiting for" in line or line.lstrip().startswith("step "):
            say(line)
    return json.loads(next(line for line in reversed(lines) if line.startswith('{"run"')))


def judge(moments: Sequence[Moment], trained_s: float, trained_steps: int, steps: int) -> list[Figure]:
    """Measure the way from no nodes to all of them and back.

    Args:
        moments: begin when the job is submitted, and end when no node is left or none was awaited any longer.
        trained_s: seconds until the job ended.
    """
    nodes = [moment.nodes for moment in moments]
    ways = [up for up, _ in groupby(after > before for before, after in pairwise(nodes) if after != before)]
    first, whole, last = (
        next((moment.seconds for moment in moments if is_it(moment)), float("nan"))
        for is_it in (
            lambda moment: moment.nodes > 0,
            lambda moment: moment.nodes == NODES,
            lambda moment: moment.seconds > trained_s and moment.nodes == 0,
        )
    )
    return [
        Figure("nodes before the job", nodes[0], most=0),
        Figure("nodes at most", max(nodes), least=NODES, most=NODES),
        Figure("nodes that held work at the same time", max(moment.busy for moment in moments), least=NODES),
        Figure("nodes at the end", nodes[-1], most=0),
        Figure("times that their number went up, then down", ways.count(True), least=1, most=1),
        Figure("steps trained", trained_steps, least=steps),
        Figure("first node", first, "s"),
        Figure("all nodes", whole, "s"),
        Figure("end of the stage", trained_s, "s"),
        Figure("last node gone after it", last - trained_s, "s"),
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2, help="steps of the stage (default: 2)")
    parser.add_argument("--idle-s", type=float, default=60, help="seconds after which an idle node goes (default: 60)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
