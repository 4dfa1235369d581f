"""Check of metrics, dashboard, alerts and logs with a real Prometheus beside the shipped service.

It starts Ray, the service and Prometheus on free ports of this machine, sends good, bad, repeated and abandoned edits,
and then asks Prometheus for every metric, every query of deploy/grafana.json and the state of every alert. At last it
kills a stage, which an alert must notice. It needs `prometheus` and `promtool` (Debian: package prometheus).
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import requests

from fireedit.benchmarks.serving.server import CHECKOUT, Server
from fireedit.platform.cluster import HOST, free_port, local_session
from fireedit.platform.console import say
from fireedit.platform.images import encode_png
from fireedit.serve import metrics

DEPLOY = CHECKOUT / "deploy"
PROGRAMS = ("prometheus", "promtool")
REQUEST_ID = "observe-1"
KILLED, NOTICED_BY = "UNet", "FireEditStageDown"
COMPONENTS = ("proxy", "Gateway", "Detector", "VLM", "UNet")
"""Components whose logs must name the request."""
SEEN_WITHIN_S = 30
"""Seconds until Prometheus has all metrics; Ray and Prometheus read every second here."""


@dataclass(kw_only=True)
class Report:
    """Findings; empty lists are good."""

    statuses: dict[str, list[int]] = field(default_factory=dict)
    """Status of each answer by kind of request; an abandoned request has none."""
    missing_metrics: list[str] = field(default_factory=list)
    invalid_queries: list[str] = field(default_factory=list)
    empty_queries: list[str] = field(default_factory=list)
    """Titles of panels without data."""
    alerts: dict[str, str] = field(default_factory=dict)
    """State of each alert while all is well; `inactive` is good."""
    kill_noticed: bool = False
    """True if an alert was pending soon after a stage was killed."""
    silent_components: list[str] = field(default_factory=list)
    """Components whose logs do not name the request."""

    def passed(self) -> bool:
        faults = (self.missing_metrics, self.invalid_queries, self.empty_queries, self.silent_components)
        return not any(faults) and set(self.alerts.values()) == {"inactive"} and self.kill_noticed


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        say(f"skipped: {' and '.join(missing)} not found; install Debian's package prometheus")
        print(json.dumps({"skipped": f"no {missing[0]}"}))
        return
    started = time.monotonic()
    out = args.out.expanduser().resolve()
    out.mkdir(parents=True, exist_ok=True)
    for command in (
        "check rules alerts.yaml",
        "check config --syntax-only prometheus.yml",
        "test rules alerts_test.yaml",
    ):
        subprocess.run(["promtool", *command.split()], cwd=DEPLOY, check=True, stdout=sys.stderr)
    report = observe(out)
    passed = report.passed()
    say(f"{'passed' if passed else 'FAILED'} in {time.monotonic() - started:.0f} s")
    print(json.dumps(asdict(report) | {"passed": passed, "seconds": round(time.monotonic() - started)}))
    sys.exit(not passed)


def observe(out: Path) -> Report:
    """Run the service and Prometheus, and use both."""
    report = Report()
    os.environ.setdefault("RAY_metrics_report_interval_ms", "1000")
    with Server() as server, running_prometheus(server.ray.folder, out) as prometheus:
        say(f"the service and Prometheus run; {prometheus}, logs in {out} and {server.folder}")
        report.statuses = send_edits(server.url)
        say(f"answers: {report.statuses}")
        examine(prometheus, report)
        for process in server.titled(KILLED):
            server.kill(process)
        report.kill_noticed = is_noticed(prometheus)
        say(f"{KILLED} killed: {NOTICED_BY} {'is pending' if report.kill_noticed else 'has NOT noticed'}")
    report.silent_components = silent_components(server.folder / "logs" / "serve")
    say(f"components that do not log the request's id: {report.silent_components or 'none'}")
    return report


@contextlib.contextmanager
def running_prometheus(ray_folder: Path, out: Path) -> Iterator[str]:
    """Run Prometheus with the shipped files, adapted to this Ray and to short intervals; yield its address."""
    folder, port = out / "prometheus", free_port(9090)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(DEPLOY, folder)
    config = (folder / "prometheus.yml").read_text()
    assert "/tmp/ray/" in config and "interval: 10s" in config
    config = config.replace("/tmp/ray/", f"{ray_folder}/").replace("interval: 10s", "interval: 1s")
    (folder / "prometheus.yml").write_text(config)
    options = ["--config.file=prometheus.yml", "--storage.tsdb.path=data", f"--web.listen-address={HOST}:{port}"]
    with (out / "prometheus.log").open("w") as log:
        process = subprocess.Popen(["prometheus", *options], cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield f"http://{HOST}:{port}"
    finally:
        process.terminate()
        process.wait()


def send_edits(endpoint: str) -> dict[str, list[int]]:
    """Send edits that succeed, repeat, fail and are given up; returns the statuses by kind."""
    pictures = [encode_png(np.full((64, 64, 3), shade, np.uint8)) for shade in (60, 180)]
    known = {"x-request-id": REQUEST_ID}
    hurried = {"x-request-timeout-seconds": "0.01"}
    return {
        "edited": [_send(endpoint, pictures[0], headers=known)] + [_send(endpoint, each) for each in pictures * 2],
        "no picture": [_send(endpoint, b"no picture")],
        "no time": [_send(endpoint, pictures[0], steps=100, headers=hurried) for _ in range(2)],
        "given up": [_send(endpoint, pictures[1], steps=1000, timeout_s=1.0)],
        "edited again": [_send(endpoint, each) for each in pictures],
    }


def _send(
    endpoint: str, picture: bytes, steps: int = 4, headers: Mapping[str, str] | None = None, timeout_s: float = 120
) -> int:
    """Send one edit; returns its status, or 0 when the time is over."""
    fields = {"prompt": "Remove the dog.", "seed": "1", "num_inference_steps": str(steps)}
    try:
        return (
            local_session()
            .post(
                f"{endpoint}/v1/images/edits", data=fields, files={"image": picture}, headers=headers, timeout=timeout_s
            )
            .status_code
        )
    except requests.Timeout:
        return 0


def examine(prometheus: str, report: Report) -> None:
    """Ask Prometheus for metrics, queries and alerts until nothing is missing or the time is over."""
    deadline = time.monotonic() + SEEN_WITHIN_S
    panels = json.loads((DEPLOY / "grafana.json").read_text())["panels"]
    queries = {
        f"{panel['title']} {target['refId']}": target["expr"].replace("$__rate_interval", "5m")
        for panel in panels
        for target in panel["targets"]
    }
    names = {name: name for name in (*metrics.COUNTERS, *metrics.GAUGES)}
    names |= {name: f"{name}_count" for name in metrics.HISTOGRAMS}
    while True:
        found = {name: ask(prometheus, f"ray_{sample}") for name, sample in names.items()}
        shown = {title: ask(prometheus, query) for title, query in queries.items()}
        report.missing_metrics = [name for name, series in found.items() if not series]
        report.empty_queries = [title for title, series in shown.items() if series == []]
        report.invalid_queries = [title for title, series in shown.items() if series is None]
        if not (report.missing_metrics or report.empty_queries) or time.monotonic() > deadline:
            break
        time.sleep(1)
    report.alerts = alert_states(prometheus)
    say(f"metrics: {len(names)}, missing {report.missing_metrics or 'none'}")
    say(f"queries: {len(queries)}, invalid {report.invalid_queries or 'none'}, empty {report.empty_queries or 'none'}")
    say(f"alerts: {report.alerts}")


def ask(prometheus: str, query: str) -> list[Any] | None:
    """Ask Prometheus one query; returns its series, None if it is not valid."""
    with contextlib.suppress(requests.ConnectionError):  # it is starting
        answer = local_session().get(f"{prometheus}/api/v1/query", params={"query": query}, timeout=10).json()
        return answer["data"]["result"] if answer["status"] == "success" else None
    return []


def alert_states(prometheus: str) -> dict[str, str]:
    """Ask for the state of each alert (inactive, pending, firing), or the error of its query."""
    rules = local_session().get(f"{prometheus}/api/v1/rules", timeout=10).json()["data"]["groups"][0]["rules"]
    return {rule["name"]: rule["state"] if rule["health"] == "ok" else rule["lastError"] for rule in rules}


def is_noticed(prometheus: str) -> bool:
    """Wait until the alert of a missing stage is pending."""
    deadline = time.monotonic() + SEEN_WITHIN_S
    while time.monotonic() < deadline:
        if alert_states(prometheus)[NOTICED_BY] in ("pending", "firing"):
            return True
        time.sleep(0.5)
    return False


def silent_components(logs: Path) -> list[str]:
    """Find the components of Serve that wrote no JSON line with the request's id."""
    lines = [(path.stem.split("_"), line) for path in logs.glob("*.log") for line in path.read_text().splitlines()]
    heard = {part for parts, line in lines for part in parts if REQUEST_ID in line and _request_id(line) == REQUEST_ID}
    return [component for component in COMPONENTS if component not in heard]


def _request_id(line: str) -> str | None:
    with contextlib.suppress(json.JSONDecodeError):
        return json.loads(line).get("request_id")
    return None


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=CHECKOUT / "out" / "observe", help="default: out/observe")
    return parser


if __name__ == "__main__":
    main()
